package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sallyport/policy"
)

// fragments are Rego blocks without a package. The block's first line names
// the stage, route where it does not:
//
//	rego dial          some rules of dial, judged as a policy of their own: as
//	                   dial.rego behind the package's line and an empty one, with
//	                   the data.yaml and the sallyport.yaml that were written before
//	rego dial refused  the same, but check has to refuse it, or to warn of it;
//	                   what it says is what the next text block is held against
//
// Below a fragment lie the questions that are put to it, one a line, where a
// reader of the document does not see them:
//
//	<!-- ask --target example.com:443 => allow -->
//
// The verdict may be followed by a text that eval prints as well.

// fragmentOf tells whether a block is one, and of which stage.
func fragmentOf(b block) (stage string, refused, ok bool) {
	words := strings.Fields(b.kind)
	if len(words) == 0 || words[0] != "rego" || regexp.MustCompile(`(?m)^package `).MatchString(b.text) {
		return "", false, false
	}
	stage = string(policy.Route)
	for _, word := range words[1:] {
		if slices.Contains(policy.Stages(), policy.Stage(word)) {
			stage = word
		}
	}
	return stage, slices.Contains(words, "refused"), true
}

func (r *reader) fragment(t *testing.T, b block, stage, text string, refused bool) {
	file := stage + ".rego"
	if err := os.WriteFile(file, []byte("package sallyport."+stage+"\n\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	of := []string{"--policy", file}
	for flag, path := range map[string]string{"--data": "data.yaml", "--config": "sallyport.yaml"} {
		if _, err := os.Stat(path); err == nil {
			of = append(of, flag, path)
		}
	}
	out, err := program(append([]string{"check"}, of...)...).CombinedOutput()
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
		out, _ := program(ask...).CombinedOutput()
		if !regexp.MustCompile(`(?m)^`+verdict+" by ").Match(out) || !strings.Contains(string(out), says) {
			t.Errorf("%s: asked %s, the answer is not %s but\n%s", b.place, flags, want, out)
		}
	}
	if len(b.asked) == 0 && !refused {
		t.Errorf("%s: nothing is asked of it", b.place)
	}
	r.printed = string(out)
}
