package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxFile bounds the content of one ${file:PATH}, in bytes.
const maxFile = 64 << 10

// Expand replaces each ${env:NAME} in s by that environment variable and each ${file:PATH} by that file's content
// without its last line break; $${ stands for a literal ${. What is put in is not expanded again. The second result
// tells whether anything was put in, in which case the value must be treated as a secret.
//
// It is an error when a variable is not set (set and empty is fine) or a file cannot be used: it has to be a regular
// file of at most 64 KiB that nobody but its owner can write and others cannot read. Errors name the variable or the
// file, never a content.
func Expand(s string) (value string, secret bool, err error) {
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
		reference, rest, closed := strings.Cut(s[start+len("${"):], "}")
		if !closed {
			return "", false, errors.New("${ is never closed; a literal ${ is written $${")
		}
		content, err := lookup(reference)
		if err != nil {
			return "", false, err
		}
		expanded.WriteString(content)
		secret = true
		s = rest
	}
}

func lookup(reference string) (string, error) {
	source, name, _ := strings.Cut(reference, ":")
	switch {
	case source == "env" && name != "":
		value, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("environment variable %q is not set", name)
		}
		return value, nil
	case source == "file" && name != "":
		return readFile(name)
	}
	// The text is not shown: it may be a password that happens to hold a "${".
	return "", errors.New("after ${ comes env:NAME} or file:PATH}; a literal ${ is written $${")
}

func readFile(path string) (string, error) {
	if strings.HasSuffix(path, ".age") {
		return "", fmt.Errorf("secret file %q: age-encrypted files are not supported by this release", path)
	}
	// Looked at before it is opened, since opening a named pipe would wait for a writer; and again when it is open,
	// since it may have been replaced in between.
	info, err := os.Stat(path)
	if err != nil {
		return "", unreadable(path, err)
	}
	if err := judge(path, info); err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", unreadable(path, err)
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return "", unreadable(path, err)
	}
	if err := judge(path, info); err != nil {
		return "", err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", unreadable(path, err)
	}
	if len(content) > maxFile {
		return "", fmt.Errorf("secret file %q is larger than 64 KiB", path)
	}
	text, cut := strings.CutSuffix(string(content), "\r\n")
	if !cut {
		text = strings.TrimSuffix(text, "\n")
	}
	return text, nil
}

// judge refuses what is not a regular file, and modes by which others could read or replace the secret.
func judge(path string, info fs.FileInfo) error {
	const laxBits = 0o026 // group write, other write, other read
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return fmt.Errorf("secret file %q is not a regular file", path)
	case mode.Perm()&laxBits != 0:
		return fmt.Errorf("secret file %q is open to others (mode %04o): run chmod 600 %s", path, mode.Perm(), path)
	}
	return nil
}

// unreadable names the file once: the errors of package os do so as well, in their own way.
func unreadable(path string, err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return fmt.Errorf("secret file %q cannot be read: %w", path, err)
}
