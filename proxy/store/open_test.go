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
	const advice = "user 0 has to own the file, and be able to write to its folder: run chown 0 on both, or name another one by state.path"
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path).Close()
	runtime.LockOSThread() // of this thread alone is what follows
	defer runtime.UnlockOSThread()
	syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
	f, err := Open(path)
	syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
	if f != nil || err == nil || !strings.Contains(err.Error(), path+": permission denied: "+advice) {
		t.Errorf("%v %v", f, err)
	}
	// Root may open it, and refuses it all the same.
	if err := os.Chown(path, 65534, -1); err != nil {
		t.Fatal(err)
	}
	if f, err := Open(path); f != nil || err == nil || err.Error() != "state file: "+path+" belongs to user 65534: "+advice {
		t.Errorf("%v %v", f, err)
	}
}
