package store

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// A file that a first start as another user has left is refused, and the error
// says whose it has to be.
func TestFileOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path).Close()
	runtime.LockOSThread() // of this thread alone is what follows
	defer runtime.UnlockOSThread()
	syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
	f, err := Open(path)
	syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
	if f != nil || err == nil || !strings.Contains(err.Error(), path+": permission denied: user 0 has to own the file, and be able to write to its folder: run chown 0 on both") {
		t.Errorf("%v %v", f, err)
	}
}
