package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sallyport/policy"
)

// A Rego block without a package is a fragment: some rules of the stage that
// the block's first line names, of route where it does not.
//
//	rego dial          judged as a policy of its own: as dial.rego, behind the
//	                   package's line and an empty one, with the data.yaml and
//	                   the sallyport.yaml that were written before
//	rego dial refused  the same, but check has to refuse it, or to warn of it
//
// Below a fragment lie the questions that are put to it, one a line, where a
// reader of the document does not see them:
//
//	<!-- ask --target example.com:443 => allow -->
//
// The verdict may be followed by a text that eval prints as well, and _ stands
// for a space in a flag. The next text block is held against what check and
// eval printed.

// guideToken is of alice, a member of dev, for sallyport from https://idp.example,
// until 2100. The policy guide has the key that verifies it; nobody has the other.
const guideToken = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9." +
	"eyJhdWQiOiJzYWxseXBvcnQiLCJleHAiOjQxMDI0NDQ4MDAsImdyb3VwcyI6WyJkZXYiXSwiaXNzIjoiaHR0cHM6Ly9pZHAuZXhhbXBsZSIsInN1YiI6ImFsaWNlIn0" +
	".53slVdtcDyyNwIoJGXFHrWowazHPxPsy0Bj7BmT5hmx7LdvC3BRFKCovwqEd1UXNcl9q9Nqr_0O93sVNf33AcA"

// isFragment tells whether a block is one.
func isFragment(b block) bool {
	kind, _, _ := strings.Cut(b.kind, " ")
	return kind == "rego" && !regexp.MustCompile(`(?m)^package `).MatchString(b.text)
}

func (r *reader) fragment(t *testing.T, b block, text string) {
	stage, refused := string(policy.Route), false
	for _, word := range strings.Fields(b.kind)[1:] {
		switch {
		case word == "refused":
			refused = true
		case slices.Contains(policy.Stages(), policy.Stage(word)):
			stage = word
		default:
			t.Fatalf("%s: %s is no stage", b.place, word)
		}
	}
	file := stage + ".rego"
	defer os.Remove(write(t, filepath.Join(r.dir, file), "package sallyport."+stage+"\n\n"+text))
	of := []string{"--policy", file}
	for flag, path := range map[string]string{"--data": "data.yaml", "--config": "sallyport.yaml"} {
		if r.has(path) {
			of = append(of, flag, path)
		}
	}
	out, err := r.sallyport(t, append([]string{"check"}, of...)...).CombinedOutput()
	r.printed = string(out)
	if (err != nil) != refused {
		t.Errorf("%s: %v\n%s", b.place, err, out)
	}
	for _, question := range b.asked {
		flags, want, ok := strings.Cut(question, " => ")
		if !ok {
			t.Fatalf("%s: no answer is wanted to %s", b.place, question)
		}
		verdict, says, _ := strings.Cut(want, " ")
		ask := append([]string{"eval", stage}, of...)
		for _, flag := range strings.Fields(flags) {
			ask = append(ask, strings.ReplaceAll(flag, "_", " "))
		}
		out, _ := r.sallyport(t, ask...).CombinedOutput()
		if !regexp.MustCompile(`(?m)^`+verdict+" by ").Match(out) || !strings.Contains(string(out), says) {
			t.Errorf("%s: asked %s, the answer is not %s but\n%s", b.place, flags, want, out)
		}
		r.printed += string(out)
	}
	if len(b.asked) == 0 && !refused {
		t.Errorf("%s: nothing is asked of it", b.place)
	}
}
