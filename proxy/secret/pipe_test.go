package secret

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Opening a named pipe would wait for somebody to write.
func TestExpandDoesNotWait(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Expand("${file:"+pipe+"}", nil); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Error(err)
	}
}
