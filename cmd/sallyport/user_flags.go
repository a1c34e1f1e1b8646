package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sallyport/proxy/identity"
)

// userFlags are what is said of a user, but for the password.
type userFlags struct {
	groups     []string
	attributes []string
	expires    string
}

var userFlagNames = []string{"group", "no-groups", "attribute", "no-attributes", "expires"}

func (u *userFlags) declare(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&u.groups, "group", nil, "`NAME` of a group that the user is in; may be repeated, and they replace those before")
	f.StringArrayVar(&u.attributes, "attribute", nil, "`KEY=VALUE`, where a value that is JSON is taken as such; may be repeated; KEY= removes it")
	f.StringVar(&u.expires, "expires", "", "`WHEN`: a time such as 2030-01-01T00:00:00Z, a duration from now such as 720h, or never")
}

// into changes the body of a write by the flags that are given.
func (u *userFlags) into(c *cobra.Command, body map[string]any) error {
	given := func(flag string) bool { f := c.Flag(flag); return f != nil && f.Changed }
	if given("group") || given("no-groups") {
		body["groups"] = append([]string{}, u.groups...)
	}
	attributes, _ := body["attributes"].(map[string]any)
	if attributes == nil || given("no-attributes") {
		attributes = map[string]any{}
	}
	for _, pair := range u.attributes {
		key, text, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return fmt.Errorf("--attribute: want KEY=VALUE, got %q", pair)
		}
		var value any
		in := json.NewDecoder(strings.NewReader(text))
		in.UseNumber()
		switch {
		case text == "":
			delete(attributes, key)
			continue
		case in.Decode(&value) != nil || in.More():
			value = text
		}
		attributes[key] = value
	}
	body["attributes"] = attributes
	if !given("expires") {
		return nil
	}
	if u.expires == "never" {
		delete(body, "expires")
		return nil
	}
	at, err := time.Parse(time.RFC3339, u.expires)
	if err != nil {
		d, wrong := time.ParseDuration(u.expires)
		if wrong != nil || d <= 0 {
			return fmt.Errorf("--expires: want a time such as 2030-01-01T00:00:00Z, a duration of h, m and s such as 720h, which is 30 days, or never; got %q", u.expires)
		}
		at = time.Now().Add(d).UTC().Truncate(time.Second)
	}
	body["expires"] = at
	return nil
}

// passwordFlags are where a password comes from: the terminal, if none is given.
type passwordFlags struct {
	stdin    bool
	hashFile string
	bcrypt   bool
}

func (p *passwordFlags) declare(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&p.stdin, "password-stdin", false, "read the password from standard input: its first line")
	f.StringVar(&p.hashFile, "hash-file", "", "`FILE` of an argon2id or bcrypt hash, instead of a password; - is standard input")
	f.BoolVar(&p.bcrypt, "bcrypt", false, "hash by bcrypt instead of argon2id")
	c.MarkFlagsMutuallyExclusive("password-stdin", "hash-file")
	c.MarkFlagsMutuallyExclusive("bcrypt", "hash-file")
}

// hash is the hash to store.
func (p *passwordFlags) hash() (string, error) {
	if p.hashFile != "" {
		return readHash(p.hashFile)
	}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	var password []byte
	var err error
	switch {
	case p.stdin:
		password, err = readLine(os.Stdin)
	case terminal:
		password, err = askPassword()
	default:
		return "", errors.New("there is no terminal to ask for the password: --password-stdin reads it from standard input, --hash-file has a hash")
	}
	if err != nil {
		return "", err
	}
	algorithm := identity.Argon2id
	if p.bcrypt {
		algorithm = identity.Bcrypt
	}
	return identity.Hash(password, algorithm)
}

func readHash(path string) (string, error) {
	file := os.Stdin
	if path != "-" {
		var err error
		if file, err = os.Open(path); err != nil {
			return "", fmt.Errorf("--hash-file: %w", err)
		}
		defer file.Close()
	}
	text, err := io.ReadAll(io.LimitReader(file, 4096))
	if err != nil {
		return "", fmt.Errorf("--hash-file: %w", err)
	}
	hash := strings.TrimSpace(string(text))
	if err := identity.CheckHash(hash); err != nil {
		return "", fmt.Errorf("--hash-file: %w", err)
	}
	return hash, nil
}

// askPassword asks twice, and shows nothing of the answers.
func askPassword() ([]byte, error) {
	in := int(os.Stdin.Fd())
	var answers [2][]byte
	for i, prompt := range []string{"Password: ", "Again: "} {
		fmt.Fprint(os.Stderr, prompt)
		answer, err := term.ReadPassword(in)
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return nil, fmt.Errorf("read the password: %w", err)
		}
		answers[i] = answer
	}
	if !bytes.Equal(answers[0], answers[1]) {
		return nil, errors.New("the two passwords are not the same")
	}
	return answers[0], checkLength(answers[0])
}

// readLine takes one line, without its end.
func readLine(from io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(from, 1024)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	line = bytes.TrimRight(line, "\r\n")
	return line, checkLength(line)
}

// checkLength: RFC 1929 ends at 255 bytes.
func checkLength(password []byte) error {
	if len(password) == 0 || len(password) > 255 {
		return errors.New("a password has 1 to 255 bytes")
	}
	return nil
}

func hashCommand() *cobra.Command {
	var from passwordFlags
	c := &cobra.Command{
		Use:   "hash",
		Short: "Make the hash that data.users.NAME.password holds",
		Long:  "Make the hash that data.users.NAME.password holds, of a password on standard input or at a prompt. No server is asked.",
		Example: `  sallyport user hash
  sallyport user hash < password.txt`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			from.stdin = !term.IsTerminal(int(os.Stdin.Fd()))
			made, err := from.hash()
			if err != nil {
				return err
			}
			return print(c, made, map[string]string{"hash": made})
		},
	}
	c.Flags().BoolVar(&from.bcrypt, "bcrypt", false, "bcrypt instead of argon2id")
	return c
}
