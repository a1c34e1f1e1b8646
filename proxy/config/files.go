package config

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"sallyport/proxy/secret"
)

// maxFile bounds the configuration file, in bytes.
const maxFile = 1 << 20

// identityVariable names the private keys where --age-identity does not. It is no setting: the file that settings are in
// may be what the keys decrypt.
const identityVariable = "SALLYPORT_AGE_IDENTITY"

// identities reads the private keys. Without them the rest would be one problem that stands for all.
func (l *loader) identities(options Options) error {
	files, named := options.AgeIdentity, "--age-identity"
	if len(files) == 0 {
		for _, variable := range options.Env {
			if text, found := strings.CutPrefix(variable, identityVariable+"="); found && text != "" {
				files, named = strings.Split(text, ","), identityVariable
			}
		}
	}
	read, err := secret.ReadIdentities(files, options.Passphrase)
	if err != nil {
		return Problems{{File: named, Message: err.Error()}}
	}
	l.config.identities = read
	return nil
}

// Decrypt gives the content of a file whose name ends in .age. The error does not name the file.
func (c *Config) Decrypt(content []byte) ([]byte, error) { return c.identities.Decrypt(content) }

// read reads the configuration file, and decrypts one whose name ends in .age.
func (l *loader) read(path string) []byte {
	document, err := l.content(path)
	if err != nil {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err // the problem names the file
		}
		l.problems.add(origin{file: path}, "", "cannot be read: %v", err)
		return nil
	}
	if _, isEncrypted := secret.TrimEncrypted(path); isEncrypted {
		if document, err = l.config.Decrypt(document); err != nil {
			l.problems.add(origin{file: path}, "", "%v", err)
			return nil
		}
	}
	return document
}

func (l *loader) content(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	most := int64(maxFile)
	if _, isEncrypted := secret.TrimEncrypted(path); isEncrypted {
		most *= 2 // for header and armor; what is in it is bounded by maxValues
	} else if secret.Lax(file, info, 0o026) {
		l.file, l.open = path, info.Mode().Perm()
	}
	document, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(document)) > most {
		err = errors.New("larger than 1 MiB")
	}
	return document, err
}

// seal keeps what the tree holds out of messages.
func (n *node) seal() {
	if n == nil {
		return
	}
	n.at.sealed = true
	for _, item := range n.items {
		item.seal()
	}
	for _, e := range n.entries {
		e.value.seal()
	}
}

// lax refuses secrets that stand in a file which others can read or replace.
func (l *loader) lax() {
	if l.file == "" {
		return
	}
	for _, key := range literals(l.config) {
		if at := l.config.origin(key); at.file == l.file {
			l.problems.add(at, key, "is a secret, and the file is open to others (mode %04o): run chmod 600 %s, or write ${file:PATH} of a file that is not",
				l.open, l.file)
		}
	}
}

// literals are the keys of secrets that were written out, rather than named by ${env:NAME} or ${file:PATH}.
func literals(c *Config) []string {
	var found []string
	var walk func(value reflect.Value, keys []string, path string)
	walk = func(value reflect.Value, keys []string, path string) {
		if c.origins[path].secret {
			return
		}
		switch literal := value.Interface().(type) {
		case secret.String:
			if !literal.IsZero() {
				found = append(found, path)
			}
			return
		case URL:
			if hasPassword(string(literal)) {
				found = append(found, path)
			}
			return
		case string:
			free := len(keys) > 2 && strings.HasPrefix(path, opaKey)
			if hasPassword(literal) || free && isLiteral(keys[2:], literal) {
				found = append(found, path)
			}
			return
		}
		switch value.Kind() {
		case reflect.Interface, reflect.Pointer:
			if !value.IsNil() {
				walk(value.Elem(), keys, path)
			}
		case reflect.Struct:
			for field, member := range value.Fields() {
				if key := field.Tag.Get("key"); key != "" {
					walk(member, append(slices.Clip(keys), key), join(path, key))
				}
			}
		case reflect.Map:
			for key, member := range value.Seq2() {
				walk(member, append(slices.Clip(keys), strings.ToLower(key.String())), join(path, key.String()))
			}
		case reflect.Slice:
			for i := range value.Len() {
				walk(value.Index(i), keys, index(path, i))
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), nil, "")
	slices.Sort(found)
	return found
}

// isLiteral tells of a text in OPA's configuration, by the lower-case keys that lead to it, whether it is a secret. It
// is sure where isCredential is careful: a public key or a file's name is none.
func isLiteral(keys []string, value string) bool {
	if value == "" || len(keys) == 0 {
		return false
	}
	last := strings.ReplaceAll(keys[len(keys)-1], "-", "_")
	for _, end := range []string{"password", "passphrase", "secret", "token"} {
		if last == end || strings.HasSuffix(last, "_"+end) {
			return true
		}
	}
	if slices.Contains(keys, "headers") {
		return strings.HasSuffix(last, "authorization") || strings.HasSuffix(last, "cookie") || strings.HasSuffix(last, "key")
	}
	shared := len(keys) == 3 && keys[0] == "keys" && last == "key" && !strings.HasPrefix(value, "-----BEGIN") // of HMAC
	return shared || strings.Contains(value, "PRIVATE KEY-----")
}

// hasPassword tells of a URL with a password in it.
func hasPassword(text string) bool {
	_, rest, isURL := strings.Cut(text, "://")
	authority, _, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(authority, '@')
	return isURL && at >= 0 && strings.Contains(authority[:at], ":")
}
