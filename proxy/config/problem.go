package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"

	"sallyport/proxy/secret"
)

// maxProblems bounds what is collected from one configuration; nobody reads further.
const maxProblems = 100

// Problem is one thing that is wrong, and where.
type Problem struct {
	File    string `json:"file,omitempty"`   // the file as it was named; else the environment variable or the flag
	Line    int    `json:"line,omitempty"`   // from 1; 0: there is none
	Column  int    `json:"column,omitempty"` // in characters from 1; 0: there is none
	Key     string `json:"key,omitempty"`    // such as listeners[0].address
	Message string `json:"message"`          // holds no secret
}

// String is "file:line: key: message", without what is not known.
func (p Problem) String() string {
	var text strings.Builder
	if p.File != "" {
		text.WriteString(p.File)
		if p.Line > 0 {
			text.WriteString(":" + strconv.Itoa(p.Line))
		}
		text.WriteString(": ")
	}
	if p.Key != "" {
		text.WriteString(p.Key + ": ")
	}
	return text.String() + p.Message
}

// Problems is everything that is wrong with a configuration. As an error it prints one problem a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) add(at origin, key, format string, arguments ...any) {
	p.put(Problem{File: at.file, Line: at.line, Column: at.column, Key: key, Message: fmt.Sprintf(format, arguments...)})
}

// put keeps the first maxProblems.
func (p *Problems) put(one Problem) {
	if len(*p) < maxProblems {
		*p = append(*p, one)
	}
}

// sort brings the problems of each source into the order of its lines; the sources stay in theirs.
func (p Problems) sort() {
	rank := map[string]int{}
	for _, problem := range p {
		if _, known := rank[problem.File]; !known {
			rank[problem.File] = len(rank)
		}
	}
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(rank[a.File], rank[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// origin is where something was written.
type origin struct {
	file   string // a file, a variable or a flag
	line   int
	column int
	secret bool // the value came out of ${env:} or ${file:}
	sealed bool // it was in an encrypted file: no message quotes it

	// Of a value that came out of a reference or was in an encrypted file: what it is,
	// and how it was written.
	value, written string
}

// hide takes the value out of a message that others have made of it, such as one of a
// file that cannot be read: it is called as it was written, as in "${env:DIR}/cert.pem".
// So is the folder of that file, in which there may be others.
func (o origin) hide(message string) string {
	const shortest = 4 // anything shorter is in every sentence
	if !o.secret && !o.sealed || len(o.value) < shortest {
		return message
	}
	instead := o.written
	if o.sealed {
		instead = secret.Redacted
	}
	said := [][2]string{{o.value, instead}}
	if folder := filepath.Dir(o.value); len(folder) >= shortest {
		said = append(said, [2]string{folder + "/", o.folder() + "/"})
	}
	var words []string
	for _, pair := range said {
		quoted := strconv.Quote(pair[0])
		words = append(words, pair[0], pair[1], quoted[1:len(quoted)-1], pair[1])
	}
	return strings.NewReplacer(words...).Replace(message)
}

// folder is what the folder of the file is called whose name is the value.
func (o origin) folder() string {
	folder := filepath.Dir(o.value)
	switch {
	case o.sealed:
		return secret.Redacted
	case strings.HasPrefix(o.written, folder+"/"):
		return folder // it is no secret
	case filepath.Base(o.written) == filepath.Base(o.value):
		return filepath.Dir(o.written)
	}
	return secret.Redacted // it was not written by itself
}

// quote shows a text of the operator's in a message: short, and without a line break that would forge a line.
func quote(text string) string {
	const limit = 60
	if characters := []rune(text); len(characters) > limit {
		text = string(characters[:limit]) + "…"
	}
	return strconv.Quote(text)
}

// join appends a key to a path. A key that could be misread is quoted.
func join(path, key string) string {
	plain := key != "" && len(key) <= 60 && !strings.ContainsFunc(key, func(r rune) bool {
		return !(r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' || r == '-' || r == '<'))
	})
	if !plain {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// index appends a place in a list to a path.
func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// didYouMean ends a message about an unknown name with the nearest known one, if any is near.
func didYouMean(name string, known []string) string {
	if len(name) > 64 {
		return ""
	}
	best, least := "", len(name)/3+2
	for _, candidate := range known {
		if distance := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(candidate)); distance < least {
			best, least = candidate, distance
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}
