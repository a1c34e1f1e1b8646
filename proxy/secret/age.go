package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
)

// encrypted ends the name of a file that is encrypted by age (https://age-encryption.org/v1), in binary or as text.
const encrypted = ".age"

// maxIdentity bounds a file of identities or of recipients, in bytes.
const maxIdentity = 64 << 10

// maxWork bounds what a passphrase costs: 2^20 is 1 GiB of memory and some seconds. The age command takes 2^18.
const maxWork = 20

// TrimEncrypted is a file's name without the .age of one that is encrypted, and whether it had one.
func TrimEncrypted(name string) (plain string, isEncrypted bool) {
	return strings.CutSuffix(name, encrypted)
}

// Identities are private keys, by which files whose names end in .age are decrypted. Nil and the zero value have none.
type Identities struct {
	files []string
	keys  []age.Identity
}

// ReadIdentities reads private keys from files (nil if there are none) as age-keygen and ssh-keygen (Ed25519 and RSA) write them. A file has to
// be a regular one of at most 64 KiB that nobody but its owner can write and others cannot read. One that is protected
// by a passphrase is opened by what ask returns for the file's name; nil: it is refused. The error names the file, and
// never its content.
func ReadIdentities(files []string, ask func(file string) ([]byte, error)) (*Identities, error) {
	if len(files) == 0 {
		return nil, nil
	}
	read := &Identities{files: files}
	for _, name := range files {
		content, err := readBounded("identity file", name, maxIdentity)
		if err != nil {
			return nil, err
		}
		keys, err := identities(content, func() ([]byte, error) {
			if ask == nil {
				return nil, errors.New("there is nobody to ask for it")
			}
			return ask(name)
		})
		if err != nil {
			return nil, fmt.Errorf("identity file %q: %w", name, err)
		}
		read.keys = append(read.keys, keys...)
	}
	return read, nil
}

// identities reads the keys of one file.
func identities(content []byte, ask func() ([]byte, error)) ([]age.Identity, error) {
	switch text := bytes.TrimSpace(content); {
	case isAge(content):
		passphrase, err := ask()
		if err != nil {
			return nil, fmt.Errorf("is protected by a passphrase: %w", err)
		}
		key, err := age.NewScryptIdentity(string(passphrase))
		if err != nil {
			return nil, errors.New("is protected by a passphrase, which cannot be empty")
		}
		key.SetMaxWorkFactor(maxWork)
		plain, err := decrypt(content, key)
		var mismatch *age.NoIdentityMatchError
		switch {
		case errors.As(err, &mismatch):
			return nil, errors.New("is not opened by this passphrase")
		case err != nil:
			return nil, err
		}
		return parseIdentities(plain)
	case bytes.HasPrefix(text, []byte("-----BEGIN")):
		return sshIdentity(content, ask)
	}
	return parseIdentities(content)
}

func parseIdentities(content []byte) ([]age.Identity, error) {
	keys, err := age.ParseIdentities(bytes.NewReader(content))
	if err != nil {
		// The library's own words may hold a part of what it could not read.
		return nil, errors.New("holds no identity of age or SSH: want what age-keygen or ssh-keygen writes")
	}
	return keys, nil
}

// Decrypt gives the content of a file that is encrypted to one of the identities, in binary or armored; it is never
// longer than the file. The error does not name the file: the caller does.
func (i *Identities) Decrypt(content []byte) ([]byte, error) {
	switch {
	case !isAge(content):
		return nil, errors.New("is not encrypted, though its name ends in .age: run sallyport config encrypt")
	case i == nil || len(i.keys) == 0:
		return nil, errors.New("is encrypted: name the file of the key by --age-identity")
	}
	plain, err := decrypt(content, i.keys...)
	var mismatch *age.NoIdentityMatchError
	switch {
	case errors.As(err, &mismatch) && slices.Contains(mismatch.StanzaTypes, "scrypt"):
		return nil, errors.New("is encrypted by a passphrase: want one that is encrypted to a recipient, as sallyport config encrypt does")
	case errors.As(err, &mismatch):
		return nil, fmt.Errorf("is not encrypted to the identity in %s", strings.Join(i.files, ", "))
	}
	return plain, err
}

func isAge(content []byte) bool {
	return bytes.HasPrefix(content, []byte("age-encryption.org/")) ||
		bytes.HasPrefix(bytes.TrimSpace(content), []byte(armor.Header))
}

// decrypt gives nothing unless the whole is as it was encrypted.
func decrypt(content []byte, keys ...age.Identity) ([]byte, error) {
	var source io.Reader = bytes.NewReader(content)
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte(armor.Header)) {
		source = armor.NewReader(source)
	}
	opened, err := age.Decrypt(source, keys...)
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(opened)
	}
	var mismatch *age.NoIdentityMatchError
	switch {
	case errors.As(err, &mismatch):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("cannot be decrypted: %w", err)
	}
	return plain, nil
}

// Recipients are public keys to which a file is encrypted: whoever has the private key of one can decrypt it.
type Recipients struct {
	keys []age.Recipient
}

// Add takes a public key as age-keygen and ssh-keygen (Ed25519 and RSA) write it.
func (r *Recipients) Add(text string) error {
	var key age.Recipient
	var err error
	if strings.HasPrefix(text, "ssh-") {
		key, err = agessh.ParseRecipient(text)
	} else {
		var keys []age.Recipient
		if keys, err = age.ParseRecipients(strings.NewReader(text)); err == nil {
			key = keys[0]
		}
	}
	if err != nil {
		// What is not one is not shown: it may be a private key in the wrong place.
		return errors.New("is no recipient: want age1… or ssh-ed25519 …, such as age-keygen -y prints")
	}
	r.keys = append(r.keys, key)
	return nil
}

// AddFile takes the public keys in a file, one a line; empty lines and those that begin with # are left out.
func (r *Recipients) AddFile(name string) error {
	content, err := readPublic("recipients file", name, maxIdentity)
	if err != nil {
		return err
	}
	before, row := len(r.keys), 0
	for line := range strings.Lines(string(content)) {
		row++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if err := r.Add(line); err != nil {
			return fmt.Errorf("recipients file %q: line %d %w", name, row, err)
		}
	}
	if len(r.keys) == before {
		return fmt.Errorf("recipients file %q holds no recipient", name)
	}
	return nil
}

// AddIdentities takes the public halves of private keys.
func (r *Recipients) AddIdentities(of *Identities) {
	if of == nil {
		return
	}
	for _, key := range of.keys {
		switch key := key.(type) {
		case *age.X25519Identity:
			r.keys = append(r.keys, key.Recipient())
		case *age.HybridIdentity:
			r.keys = append(r.keys, key.Recipient())
		case *agessh.Ed25519Identity:
			r.keys = append(r.keys, key.Recipient())
		case *agessh.RSAIdentity:
			r.keys = append(r.keys, key.Recipient())
		}
	}
}

// Len is how many there are.
func (r *Recipients) Len() int { return len(r.keys) }

// Encrypt encrypts a text to all of the recipients: as text, or in binary, which is shorter.
func (r *Recipients) Encrypt(plain []byte, binary bool) ([]byte, error) {
	if isAge(plain) {
		return nil, errors.New("is encrypted already")
	}
	var content bytes.Buffer
	var lines io.WriteCloser = nopCloser{&content}
	if !binary {
		lines = armor.NewWriter(&content)
	}
	sealed, err := age.Encrypt(lines, r.keys...)
	if err != nil {
		return nil, err
	}
	for _, end := range []func() error{
		func() error { _, err := sealed.Write(plain); return err },
		sealed.Close,
		lines.Close,
	} {
		if err := end(); err != nil {
			return nil, err
		}
	}
	return content.Bytes(), nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
