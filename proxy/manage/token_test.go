package manage

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestTokenFileIsMadeOnceAndReused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	first, err := TokenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Reveal()) != 43 {
		t.Errorf("the token has %d characters", len(first.Reveal()))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := TokenFile(path)
	if err != nil || !again.Equal(first) {
		t.Errorf("the second time: equal %v, %v", again.Equal(first), err)
	}
	if other := GenerateToken(); other == first.Reveal() || len(other) != 43 {
		t.Error("two tokens are the same")
	}
}

func TestAnEmptyTokenFileIsFilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	token, err := TokenFile(path)
	if err != nil || token.IsZero() {
		t.Fatalf("empty %v, %v", token.IsZero(), err)
	}
	if text, _ := os.ReadFile(path); string(text) != token.Reveal()+"\n" {
		t.Error("the file holds another token")
	}
}

func TestTokenFilesThatOthersCanReachAreRefused(t *testing.T) {
	const token = "a-token-that-is-long-enough-0123456789"
	for _, test := range []struct {
		name string
		make func(path string) error
		want string // in the message
	}{
		{"others can read", func(p string) error { return os.WriteFile(p, []byte(token), 0o644) }, "run chmod 600"},
		{"the group can read", func(p string) error { return os.WriteFile(p, []byte(token), 0o640) }, "run chmod 600"},
		{"others can write", func(p string) error { os.WriteFile(p, []byte(token), 0o600); return os.Chmod(p, 0o602) }, "run chmod 600"},
		{"a symbolic link", func(p string) error {
			os.WriteFile(p+".real", []byte(token), 0o600)
			return os.Symlink(p+".real", p)
		}, "symbolic link"},
		{"a link to nothing", func(p string) error { return os.Symlink(p+".none", p) }, "symbolic link"},
		{"a named pipe", func(p string) error { return syscall.Mkfifo(p, 0o600) }, "not a regular file"},
		{"a directory", func(p string) error { return os.Mkdir(p, 0o700) }, "not a regular file"},
		{"too short", func(p string) error { return os.WriteFile(p, []byte("short"), 0o600) }, "remove it"},
		{"too long", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat(token, 1000)), 0o600) }, "remove it"},
		{"two lines", func(p string) error { return os.WriteFile(p, []byte(token+"\n"+token), 0o600) }, "remove it"},
		{"no directory", func(string) error { return nil }, "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			if test.name == "no directory" {
				path = filepath.Join(path, "token")
			}
			if err := test.make(path); err != nil {
				t.Fatal(err)
			}
			got, err := TokenFile(path)
			if err == nil || !got.IsZero() || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("TokenFile = %q, %v, want an error with %q", got.Reveal(), err, test.want)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func TestATokenFileOfAnotherOwnerIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := filepath.Join(t.TempDir(), "token")
	if _, err := TokenFile(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := TokenFile(path); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("TokenFile = %v", err)
	}
}
