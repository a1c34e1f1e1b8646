package telemetry

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// File is a log file that can be moved away under the process: Reopen then
// makes it anew.
type File struct {
	path string

	mu   sync.Mutex // held to replace it
	file atomic.Pointer[os.File]
}

// OpenFile opens the file for appending; a new one has mode 0600.
func OpenFile(path string) (*File, error) {
	f := &File{path: path}
	if err := f.Reopen(); err != nil {
		return nil, err
	}
	return f, nil
}

// Write appends to the file that is open at the time.
func (f *File) Write(p []byte) (int, error) {
	for {
		file := f.file.Load()
		n, err := file.Write(p)
		if n == 0 && errors.Is(err, os.ErrClosed) && f.file.Load() != file {
			continue // reopened just now
		}
		return n, err
	}
}

// Reopen opens the path again. Where that fails the old file stays in use.
func (f *File) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Without O_NONBLOCK a named pipe would be waited for until it is read.
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	if old := f.file.Swap(file); old != nil {
		// What was to be written is: an error here says nothing that could be acted on.
		_ = old.Close()
	}
	return nil
}

// Close closes the file. The writer in front of it is closed before.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Load().Close()
}
