package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sallyport/policy"
)

// Candidate is a policy as it was loaded: parsed by nobody, judged by nobody.
// It is never changed after it has been handed over.
type Candidate struct {
	Revision  string     // what logs call it: a manifest's revision, or a digest of the files
	LeftOut   []string   // JSON and YAML files in its folders that by their names are not data
	Digest    string     // SHA-256 of everything below, in hexadecimal
	Modules   []Module   // Rego, tests included
	Documents []Document // base data
	Bundles   []Bundle   // those that brought modules or documents
	Partial   bool       // more is awaited: what is missing is not a problem yet, and nothing of it may be activated
}

// Module is one Rego file.
type Module struct {
	Path   string // as the operator would name it; a bundle's file is "BUNDLE.tar.gz:/a/b.rego"
	Bundle string // name in Candidate.Bundles; empty for files
	Text   []byte
}

// Document is one file of base data, already placed below the root of data.
type Document struct {
	Path   string         // as for a Module
	Bundle string         // name in Candidate.Bundles; empty for files
	Value  map[string]any // JSON as Go values, numbers as json.Number
}

// Bundle is an OPA bundle.
type Bundle struct {
	Name     string
	Path     string   // the file, or the URL without credentials
	Roots    []string // of the manifest: "teams/x"; "" owns everything
	Revision string   // of the manifest
}

// Options are what the configuration says about judging and deciding.
type Options struct {
	Timeout      time.Duration       // for one evaluation; 0: 500 ms
	Parallel     int                 // evaluations at once; 0: one for each core, at least two
	Lenient      bool                // policy.strict: false, so that passing `input` on is a warning
	Required     []policy.Stage      // stages that must be defined
	Roots        map[string][]string // which roots each bundle may own; nil with one bundle at most: any
	Capabilities []string            // built-ins that reach out or reveal, allowed nevertheless
	MemoSize     int                 // decisions remembered by one snapshot; 0: 65,536; negative: none

	Upstreams []string // which there are; nil: not known
	Listeners []string // likewise

	// CheckData judges base data that Go code reads, such as data.users. One that
	// has a method DataPath() []string is told with the file that path is in. Each
	// error is a problem of the candidate. It may be nil.
	CheckData func(data map[string]any) []error

	// IsHost tells whether a redirect can lead to a host. It may be nil.
	IsHost func(host string) bool

	// Missing says why a fact, by the names below input that lead to it, will be
	// empty as the program is configured, or "" where it will not; reading such a
	// fact is a warning. It may be nil.
	Missing func(path ...string) string

	// Record is told of each decision, memoised ones too, when it is not nil.
	// The decision waits for it. An error makes the decision a fault: it would be
	// one that nobody ever hears of.
	Record func(*Event) error

	// RecordWaits says that Record may take its time: then Recall has no answers.
	RecordWaits bool

	// Print is told what rules print in decisions, when it is not nil. It must
	// not block.
	Print func(*Printed)
}

// Problem is one thing that is wrong with a candidate.
type Problem struct {
	File        string // empty where the problem has no place
	Row, Column int    // from 1; 0 where unknown
	Message     string // lower case, with a suggestion where there is one
	Warning     bool   // reported, but the candidate is accepted
	Advice      bool   // nothing is wrong: it works, but see [Engine.Advise]
}

// String is "file:row: message", as it may be written to a terminal: what a
// parser repeats of a file that is none of its kind can hold anything.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(strings.ReplaceAll(printable(p.File), "\n", `\n`))
		if p.Row > 0 {
			fmt.Fprintf(&b, ":%d", p.Row)
			if p.Column > 0 {
				fmt.Fprintf(&b, ":%d", p.Column)
			}
		}
		b.WriteString(": ")
	}
	switch {
	case p.Advice:
		b.WriteString("advice: ")
	case p.Warning:
		b.WriteString("warning: ")
	}
	b.WriteString(printable(p.Message))
	return b.String()
}

// printable escapes what does not print, but for line breaks and tabs.
func printable(text string) string {
	var b strings.Builder
	for text != "" {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r != '\n' && r != '\t' && !unicode.IsPrint(r):
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

// Problems is everything that is wrong with a candidate, in the order of files
// and rows. As an error it prints one problem a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Fatal tells whether any of the problems refuses the candidate.
func (p Problems) Fatal() bool {
	for i := range p {
		if !p[i].Warning && !p[i].Advice {
			return true
		}
	}
	return false
}
