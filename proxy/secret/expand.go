package secret

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// maxFile bounds the content of one ${file:PATH}, in bytes.
const maxFile = 64 << 10

// Expand replaces each ${env:NAME} in s by that environment variable and each ${file:PATH} by that file's content
// without its last line break; $${ stands for a literal ${. In a PATH, ${env:NAME} stands for a variable as well. A file
// whose name ends in .age is decrypted by one of the identities. What is put in is not expanded again. The second
// result tells whether anything was put in, in which case the value must be treated as a secret.
//
// It is an error when a variable is not set (set and empty is fine) or a file cannot be used: it has to be a regular
// file of at most 64 KiB that nobody but its owner can write and, unless it is encrypted, others cannot read. Errors
// name the variable or the file, never a content.
func Expand(s string, identities *Identities) (value string, secret bool, err error) {
	var expanded strings.Builder
	for {
		start := strings.Index(s, "${")
		if start < 0 {
			expanded.WriteString(s)
			return expanded.String(), secret, nil
		}
		if start > 0 && s[start-1] == '$' {
			expanded.WriteString(s[:start-1] + "${")
			s = s[start+len("${"):]
			continue
		}
		expanded.WriteString(s[:start])
		reference, rest, closed := cutReference(s[start+len("${"):])
		if !closed {
			return "", false, errors.New("${ is never closed; a literal ${ is written $${")
		}
		content, err := lookup(reference, identities)
		if err != nil {
			return "", false, err
		}
		expanded.WriteString(content)
		secret = true
		s = rest
	}
}

// cutReference splits what follows a ${ at the } that closes it. The path of a file may have ${env:NAME} in it.
func cutReference(s string) (reference, rest string, closed bool) {
	reference, rest, closed = strings.Cut(s, "}")
	if path, isFile := strings.CutPrefix(reference, "file:"); isFile && closed {
		for inner := path; strings.Contains(inner, "${") && closed; {
			inner, rest, closed = strings.Cut(rest, "}")
			reference += "}" + inner
		}
	}
	return reference, rest, closed
}

func lookup(reference string, identities *Identities) (string, error) {
	source, name, _ := strings.Cut(reference, ":")
	switch {
	case source == "env" && name != "":
		value, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("environment variable %q is not set", name)
		}
		return value, nil
	case source == "file" && name != "":
		return lookupFile(name, identities)
	}
	// The text is not shown: it may be a password that happens to hold a "${".
	return "", errors.New("after ${ comes env:NAME} or file:PATH}; a literal ${ is written $${")
}

// lookupFile gives a file's content. Errors call it as it was written: a variable in its path may be a secret.
func lookupFile(written string, identities *Identities) (string, error) {
	path := written
	if strings.Contains(written, "${file:") {
		return "", errors.New("a file's path may have ${env:NAME} in it, but no ${file:PATH}")
	}
	path, _, err := Expand(written, nil)
	if err != nil {
		return "", fmt.Errorf("path of a secret file: %w", err)
	}
	content, err := readSecret(written, path, identities)
	if err != nil {
		return "", err
	}
	text, cut := strings.CutSuffix(string(content), "\r\n")
	if !cut {
		text = strings.TrimSuffix(text, "\n")
	}
	return text, nil
}
