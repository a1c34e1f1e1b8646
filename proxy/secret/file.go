package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

const (
	laxWrite fs.FileMode = 0o022 // group write, other write
	laxRead  fs.FileMode = 0o004 // other read
)

// readSecret reads the file of a ${file:PATH}, and decrypts it where its name says so.
func readSecret(written, path string, identities *Identities) ([]byte, error) {
	f := source{kind: "secret file", name: written, path: path, lax: laxWrite | laxRead, most: maxFile}
	_, isEncrypted := TrimEncrypted(path)
	if isEncrypted {
		// Whoever reads it learns nothing. Armor and header take room that the secret may have.
		f.lax, f.most = laxWrite, 2*maxFile
	}
	content, err := f.read()
	if err == nil && isEncrypted {
		if content, err = identities.Decrypt(content); err != nil {
			return nil, fmt.Errorf("secret file %q %w", written, err)
		}
	}
	if err == nil && len(content) > maxFile {
		return nil, f.tooLarge(maxFile)
	}
	return content, err
}

// readBounded reads a file that holds a secret.
func readBounded(kind, path string, most int) ([]byte, error) {
	return source{kind: kind, name: path, path: path, lax: laxWrite | laxRead, most: most}.read()
}

// readPublic reads a file that holds none.
func readPublic(kind, path string, most int) ([]byte, error) {
	return source{kind: kind, name: path, path: path, most: most}.read()
}

// maxPEM bounds a file of certificates or of a private key, in bytes.
const maxPEM = 1 << 20

// ReadPEM reads a file of certificates, of a private key, or of both, of at most 1 MiB. Everybody may read
// certificates; one with a private key in it has to be as a [Expand]ed ${file:PATH}. The error calls the file by its
// kind, such as "certificate", and by its path.
func ReadPEM(kind, path string) ([]byte, error) {
	return source{kind: kind, name: path, path: path, most: maxPEM, laxIf: holdsKey}.read()
}

func holdsKey(content []byte) fs.FileMode {
	if bytes.Contains(content, []byte("PRIVATE KEY-----")) {
		return laxWrite | laxRead
	}
	return 0
}

// source is a file to read.
type source struct {
	kind, name string // as errors call it
	path       string
	lax        fs.FileMode                      // what its mode may not have
	laxIf      func(content []byte) fs.FileMode // what it may not have besides, by what it holds; nil: nothing
	most       int                              // bytes
}

func (f source) read() ([]byte, error) {
	// Looked at before it is opened, since opening a named pipe would wait for a writer; and again when it is open,
	// since it may have been replaced in between.
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, f.unreadable(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %q is not a regular file", f.kind, f.name)
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, f.unreadable(err)
	}
	defer file.Close()
	if err := f.judge(file); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, int64(f.most)+1))
	if err != nil {
		return nil, f.unreadable(err)
	}
	if len(content) > f.most {
		return nil, f.tooLarge(f.most)
	}
	if f.laxIf != nil {
		f.lax |= f.laxIf(content)
		if err := f.judge(file); err != nil {
			return nil, err
		}
	}
	return content, nil
}

// judge refuses what is not a regular file, and modes by which others could read or replace the secret.
func (f source) judge(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return f.unreadable(err)
	}
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s %q is not a regular file", f.kind, f.name)
	case Lax(file, info, f.lax):
		return fmt.Errorf("%s %q is open to others (mode %04o): run chmod 600 %s", f.kind, f.name, info.Mode().Perm(), f.name)
	}
	return nil
}

// Lax tells whether an open file's mode has one of the bits in what, and is to be taken at its word: not where a
// container's manager or systemd has mounted it, see mounted.
func Lax(file *os.File, info fs.FileInfo, what fs.FileMode) bool {
	return info.Mode().Perm()&what != 0 && !mounted(file)
}

func (f source) tooLarge(most int) error {
	return fmt.Errorf("%s %q is larger than %d KiB", f.kind, f.name, most>>10)
}

// unreadable names the file once: the errors of package os do so as well, in their own way.
func (f source) unreadable(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return fmt.Errorf("%s %q cannot be read: %w", f.kind, f.name, err)
}
