package secret

import (
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// sshIdentity reads a private key of SSH. One that is protected by a passphrase is opened here rather than when it is
// needed: a server must not ask in the middle of its work.
func sshIdentity(content []byte, ask func() ([]byte, error)) ([]age.Identity, error) {
	const unfit = "holds no SSH key that age can use: want Ed25519 or RSA"
	key, err := agessh.ParseIdentity(content)
	var protected *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return []age.Identity{key}, nil
	case !errors.As(err, &protected):
		return nil, errors.New(unfit)
	}
	passphrase, err := ask()
	if err != nil {
		return nil, fmt.Errorf("is protected by a passphrase: %w", err)
	}
	opened, err := ssh.ParseRawPrivateKeyWithPassphrase(content, passphrase)
	if err != nil {
		return nil, errors.New("is not opened by this passphrase")
	}
	switch opened := opened.(type) {
	case *ed25519.PrivateKey:
		key, err = agessh.NewEd25519Identity(*opened)
	case *rsa.PrivateKey:
		key, err = agessh.NewRSAIdentity(opened)
	default:
		err = errors.New(unfit)
	}
	if err != nil {
		return nil, errors.New(unfit)
	}
	return []age.Identity{key}, nil
}
