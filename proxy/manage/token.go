package manage

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"sallyport/proxy/secret"
)

// minToken is the least length of a token that is read from a file, maxToken
// bounds what is read. One that we make has 43 characters.
const (
	minToken = 16
	maxToken = 4 << 10
)

// GenerateToken makes a token: 32 random bytes in base64url (RFC 4648, section
// 5) without padding.
func GenerateToken() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: it ends the process instead
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// TokenFile gives the token that the file holds, and makes the file with a new
// one where there is none. It belongs to the process's user alone, mode 0600;
// another owner or a laxer mode is an error that says how to mend it. Errors
// name the file, never the token.
func TokenFile(path string) (secret.String, error) {
	token, err := newTokenFile(path)
	if errors.Is(err, fs.ErrExist) {
		token, err = readTokenFile(path)
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("management token: %w", err)
	}
	return token, nil
}

func newTokenFile(path string) (secret.String, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return secret.String{}, err
	}
	token := GenerateToken()
	_, err = io.WriteString(file, token+"\n")
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return secret.String{}, err
	}
	return secret.New(token), nil
}

func readTokenFile(path string) (secret.String, error) {
	// A symbolic link is not followed, and a named pipe not waited for.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return secret.String{}, fmt.Errorf("%s is a symbolic link: remove it, and a new file is made", path)
	}
	if err != nil {
		return secret.String{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return secret.String{}, err
	}
	if err := private(path, info); err != nil {
		return secret.String{}, err
	}
	if info.Size() == 0 {
		// Left behind by a process that was killed before it wrote.
		if err := os.Remove(path); err != nil {
			return secret.String{}, err
		}
		return newTokenFile(path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	if err != nil {
		return secret.String{}, err
	}
	token := strings.TrimRight(string(content), "\r\n")
	if len(token) < minToken || len(content) > maxToken || strings.ContainsFunc(token, notVisible) {
		return secret.String{}, fmt.Errorf("%s does not hold a token of at least %d visible ASCII characters: remove it, and a new file is made", path, minToken)
	}
	return secret.New(token), nil
}

func notVisible(r rune) bool { return r <= ' ' || r > '~' }

// private refuses a file that somebody else could have written or may read.
func private(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: remove it, and a new file is made", path)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d: run chown %d %s", path, owner, os.Geteuid(), path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s can be read or written by others (mode %04o): run chmod 600 %s", path, mode, path)
	}
	return nil
}
