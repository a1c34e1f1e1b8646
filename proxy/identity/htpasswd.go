package identity

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds on a file of htpasswd.
const maxLine = 4096 // bytes

// ParseHtpasswd reads a file of Apache's htpasswd: a line "NAME:HASH" for each
// user; those that are empty or begin with # are none. Hashes are bcrypt, as
// `htpasswd -B` makes them, or argon2id. All others are refused, since who steals
// the file guesses them too fast: each of apr1's and SHA-crypt's default is some
// hundred times cheaper to guess than argon2id's, and the rest is not salted, cut
// short, or plain. All problems are returned, each with its line and never with a
// hash; with any, there are no users.
func ParseHtpasswd(file io.Reader) ([]Edit, []error) {
	var edits []Edit
	var problems []error
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	first := map[string]int{} // lines of names
	number := 0
	for lines.Scan() {
		number++
		line := strings.TrimRight(lines.Text(), "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		e, err := htpasswdUser(line)
		before, twice := first[e.Name]
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("%d: %w", number, err))
		case twice:
			problems = append(problems, fmt.Errorf("%d: %q is in line %d already", number, e.Name, before))
		default:
			edits = append(edits, e)
			first[e.Name] = number
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		problems = append(problems, fmt.Errorf("%d: is longer than %d bytes", number+1, maxLine))
	case err != nil:
		problems = append(problems, err)
	}
	if problems != nil {
		return nil, problems
	}
	return edits, nil
}

func htpasswdUser(line string) (Edit, error) {
	name, hash, ok := strings.Cut(line, ":")
	if !ok {
		return Edit{}, errors.New("want NAME:HASH")
	}
	if err := CheckName(name); err != nil {
		return Edit{}, err
	}
	if weak := weakness(hash); weak != "" {
		return Edit{}, fmt.Errorf("%q: %s: set the password anew by `htpasswd -B`, or leave the line out and use `sallyport user add`", name, weak)
	}
	if _, err := parseHash(hash); err != nil {
		return Edit{}, fmt.Errorf("%q: %w", name, err)
	}
	return Edit{Name: name, Hash: hash}, nil
}

// weakness says why a hash of htpasswd is not accepted; "" where it may be.
func weakness(hash string) string {
	switch {
	case strings.HasPrefix(hash, "$argon2id$"), strings.HasPrefix(hash, "$2"):
		return ""
	case strings.HasPrefix(hash, "$apr1$"), strings.HasPrefix(hash, "$1$"):
		return "MD5 is guessed too fast"
	case strings.HasPrefix(hash, "$5$"), strings.HasPrefix(hash, "$6$"):
		return "SHA-crypt is not accepted"
	case strings.HasPrefix(hash, "{SHA}"):
		return "SHA-1 without salt is guessed too fast"
	case len(hash) == 13 && !strings.HasPrefix(hash, "$"):
		return "crypt sees 8 characters only, or it is no hash"
	}
	return "this is no hash that is known, or a password in the clear"
}
