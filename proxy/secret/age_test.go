package secret

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// keyFile writes a file that only its owner can read, and gives its name.
func keyFile(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func newKey(t *testing.T) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sshKey is an Ed25519 key as ssh-keygen writes it; an empty passphrase: none.
func sshKey(t *testing.T, passphrase string) (private, public string) {
	t.Helper()
	half, whole, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(whole, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(whole, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(half)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(key))
}

// protected is a text as age -p encrypts it.
func protected(t *testing.T, text, passphrase string) string {
	t.Helper()
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(10)
	sealed, err := (&Recipients{keys: []age.Recipient{to}}).Encrypt([]byte(text), false)
	if err != nil {
		t.Fatal(err)
	}
	return string(sealed)
}

func TestEveryKindOfKey(t *testing.T) {
	t.Chdir(t.TempDir())
	plainKey := newKey(t)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	private, public := sshKey(t, "")
	locked, lockedPublic := sshKey(t, "open sesame")
	for name, c := range map[string]struct{ private, public string }{
		"age":                        {"# created\n\n" + plainKey.String() + "\n", plainKey.Recipient().String()},
		"post-quantum":               {hybrid.String(), hybrid.Recipient().String()},
		"ssh":                        {private, public},
		"ssh behind a passphrase":    {locked, lockedPublic},
		"age behind a passphrase":    {protected(t, plainKey.String(), "open sesame"), plainKey.Recipient().String()},
		"two, and the second is it":  {newKey(t).String() + "\n" + plainKey.String(), plainKey.Recipient().String()},
		"two in a file of strangers": {plainKey.String(), "# one\n" + newKey(t).Recipient().String() + "\n\n" + plainKey.Recipient().String() + "\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			read, err := ReadIdentities([]string{keyFile(t, "key", c.private)}, func(file string) ([]byte, error) {
				if asked++; file != "key" {
					t.Errorf("asked for %q", file)
				}
				return []byte("open sesame"), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Count(name, "passphrase"); asked != want {
				t.Errorf("asked %d times", asked)
			}
			var named, own Recipients
			if err := named.AddFile(keyFile(t, "recipients", c.public)); err != nil {
				t.Fatal(err)
			}
			own.AddIdentities(read)
			for _, to := range []*Recipients{&named, &own} {
				for _, binary := range []bool{true, false} {
					sealed, err := to.Encrypt([]byte(planted), binary)
					if err != nil {
						t.Fatal(err)
					}
					if armored := bytes.HasPrefix(sealed, []byte("-----BEGIN AGE")); armored == binary {
						t.Errorf("binary %v: %.20q", binary, sealed)
					}
					plain, err := read.Decrypt(sealed)
					if string(plain) != planted || err != nil {
						t.Errorf("binary %v: %q, %v", binary, plain, err)
					}
				}
			}
		})
	}
}

// Errors hold neither keys nor what was encrypted.
func TestWhatCannotBeDecrypted(t *testing.T) {
	t.Chdir(t.TempDir())
	key := newKey(t)
	var to Recipients
	if err := to.Add(key.Recipient().String()); err != nil {
		t.Fatal(err)
	}
	sealed, err := to.Encrypt([]byte(planted), true)
	if err != nil {
		t.Fatal(err)
	}
	armored, err := to.Encrypt([]byte(planted), false)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := ReadIdentities([]string{keyFile(t, "mine", key.String())}, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ReadIdentities([]string{keyFile(t, "other", newKey(t).String())}, nil)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		by      *Identities
		content []byte
		want    string
	}{
		"no key":       {nil, sealed, "is encrypted: name the file of the key by --age-identity"},
		"another key":  {other, armored, "is not encrypted to the identity in other"},
		"plain":        {mine, []byte(planted), "is not encrypted, though its name ends in .age: run sallyport config encrypt"},
		"empty":        {mine, nil, "is not encrypted, though"},
		"cut off":      {mine, sealed[:len(sealed)-1], "cannot be decrypted: "},
		"changed":      {mine, flipped, "cannot be decrypted: "},
		"no body":      {mine, sealed[:bytes.LastIndexByte(sealed, '\n')+1], "cannot be decrypted: "},
		"header alone": {mine, []byte("age-encryption.org/v1\n"), "cannot be decrypted: "},
		"torn armor":   {mine, armored[:len(armored)/2], "cannot be decrypted: "},
		"a passphrase": {mine, []byte(protected(t, planted, "x")), "is encrypted by a passphrase: want"},
	} {
		plain, err := c.by.Decrypt(c.content)
		if err == nil || plain != nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
	if _, err := to.Encrypt(armored, false); err == nil || err.Error() != "is encrypted already" {
		t.Error(err)
	}
}

func TestIdentitiesThatAreRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	key := newKey(t).String()
	locked, _ := sshKey(t, "open sesame")
	answer := func(text string) func(string) ([]byte, error) {
		return func(string) ([]byte, error) { return []byte(text), nil }
	}
	refuse := func(string) ([]byte, error) { return nil, errors.New("there is no terminal") }
	for _, c := range []struct {
		content string
		mode    os.FileMode
		ask     func(string) ([]byte, error)
		want    string
	}{
		{key, 0o600, nil, ""},
		{key, 0o400, nil, ""},
		{key, 0o440, nil, ""}, // as systemd and Kubernetes hand it over
		{key, 0o644, nil, " is open to others (mode 0644): run chmod 600 key"},
		{key, 0o620, nil, " is open to others (mode 0620): run chmod 600 key"},
		{"", 0o600, nil, ": holds no identity of age or SSH: want what age-keygen or ssh-keygen writes"},
		{planted, 0o600, nil, ": holds no identity of age or SSH"},
		{key + "\n" + planted, 0o600, nil, ": holds no identity of age or SSH"},
		{"-----BEGIN " + planted, 0o600, nil, ": holds no SSH key that age can use: want Ed25519 or RSA"},
		{strings.Repeat("#\n", 40000), 0o600, nil, " is larger than 64 KiB"},
		{protected(t, key, "right"), 0o600, nil, ": is protected by a passphrase: there is nobody to ask for it"},
		{protected(t, key, "right"), 0o600, refuse, ": is protected by a passphrase: there is no terminal"},
		{protected(t, key, "right"), 0o600, answer("wrong"), ": is not opened by this passphrase"},
		{protected(t, key, "right"), 0o600, answer(""), ": is protected by a passphrase, which cannot be empty"},
		{protected(t, planted, "right"), 0o600, answer("right"), ": holds no identity of age or SSH"},
		{locked, 0o600, nil, ": is protected by a passphrase: there is nobody to ask for it"},
		{locked, 0o600, answer("wrong"), ": is not opened by this passphrase"},
	} {
		if err := os.Chmod(keyFile(t, "key", c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadIdentities([]string{"key"}, c.ask)
		message := ""
		if err != nil {
			message = strings.TrimPrefix(err.Error(), `identity file "key"`)
		}
		if !strings.HasPrefix(message, c.want) || (message == "") != (c.want == "") {
			t.Errorf("mode %04o: %q, want %q", c.mode, message, c.want)
		}
		if strings.Contains(message, planted) || strings.Contains(message, key[:30]) {
			t.Errorf("tells the content: %s", message)
		}
		if err := os.Remove("key"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadIdentities([]string{"gone"}, nil); err == nil || err.Error() != `identity file "gone" cannot be read: no such file or directory` {
		t.Error(err)
	}
}

// A private key in the wrong place is not told.
func TestRecipientsThatAreRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	private := newKey(t).String()
	for _, text := range []string{private, "", "age1" + planted, "ssh-ed25519 " + planted, "github:x"} {
		var r Recipients
		if err := r.Add(text); err == nil || !strings.HasPrefix(err.Error(), "is no recipient") || r.Len() > 0 {
			t.Errorf("%q: %v", text, err)
		}
	}
	for content, want := range map[string]string{
		private + "\n":                    `recipients file "r": line 1 is no recipient`,
		"\n# a\nage1" + planted + "\n":    `recipients file "r": line 3 is no recipient`,
		"# nobody\n\n":                    `recipients file "r" holds no recipient`,
		strings.Repeat("#", 64<<10) + "x": `recipients file "r" is larger than 64 KiB`,
	} {
		var r Recipients
		err := r.AddFile(keyFile(t, "r", content))
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), planted) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestExpandDecrypts(t *testing.T) {
	t.Chdir(t.TempDir())
	key := newKey(t)
	mine, err := ReadIdentities([]string{keyFile(t, "mine", key.String())}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var to Recipients
	to.AddIdentities(mine)
	seal := func(name, text string, mode os.FileMode) {
		sealed, err := to.Encrypt([]byte(text), false)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(keyFile(t, name, string(sealed)), mode); err != nil {
			t.Fatal(err)
		}
	}
	seal("a.age", planted+"\n", 0o644) // in a repository, and nobody learns from it
	seal("full.age", strings.Repeat("x", 64<<10), 0o600)
	seal("large.age", strings.Repeat("x", 64<<10+1), 0o600)
	seal("written.age", planted, 0o666)
	for in, want := range map[string]string{
		"<${file:a.age}>":      "<" + planted + ">",
		"${file:full.age}":     strings.Repeat("x", 64<<10),
		"${file:large.age}":    `secret file "large.age" is larger than 64 KiB`,
		"${file:written.age}":  `secret file "written.age" is open to others (mode 0666): run chmod 600 written.age`,
		"${file:${env:N}.age}": planted,
	} {
		t.Setenv("N", "a")
		got, _, err := Expand(in, mine)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %.80q", in, got)
		}
	}
	if got, _, err := Expand("${file:a.age}", nil); got != "" || err == nil || err.Error() != `secret file "a.age" is encrypted: name the file of the key by --age-identity` {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzDecrypt(f *testing.F) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	mine := &Identities{files: []string{"mine"}, keys: []age.Identity{key}}
	var to Recipients
	to.AddIdentities(mine)
	for _, binary := range []bool{true, false} {
		sealed, err := to.Encrypt([]byte(planted), binary)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed)
		f.Add(sealed[:len(sealed)-2])
	}
	f.Add([]byte("age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		plain, err := mine.Decrypt(content)
		if err != nil && plain != nil || len(plain) > len(content) {
			t.Errorf("%d bytes of %d, %v", len(plain), len(content), err)
		}
		if _, err := identities(content, func() ([]byte, error) { return nil, errors.New("nobody") }); err == nil && isAge(content) {
			t.Error("opened without a passphrase")
		}
	})
}
