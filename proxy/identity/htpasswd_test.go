package identity

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseHtpasswd(t *testing.T) {
	argon := cheap(t, "x", Argon2id)
	edits, problems := ParseHtpasswd(strings.NewReader("# a comment\n\nann:" + referenceBcrypt + "\r\nbob smith:" + argon))
	if problems != nil || fmt.Sprint(edits) != fmt.Sprint([]Edit{{Name: "ann", Hash: referenceBcrypt}, {Name: "bob smith", Hash: argon}}) {
		t.Errorf("%v, %v", edits, problems)
	}
	const planted = "hunter2hunter"
	_, problems = ParseHtpasswd(strings.NewReader(strings.Join([]string{
		"a:" + referenceBcrypt, "b:$apr1$salt$" + planted, "c:{SHA}" + planted, "d:" + planted, "e:hunter2", "f", ":" + referenceBcrypt,
		"a:" + referenceBcrypt, "g:$6$salt$" + planted, "h:" + referenceBcrypt + ":realm", "i\x00:" + referenceBcrypt, "j:", "k:$2y$15$" + referenceBcrypt[7:],
	}, "\n")))
	want := []string{
		`2: "b": MD5`, `3: "c": SHA-1`, `4: "d": crypt`, `5: "e": this is no hash`, `6: want NAME:HASH`, `7: a user's name has`,
		`8: "a" is in line 1 already`, `9: "g": SHA-crypt`, `10: "h": is a malformed hash`, `11: a user's name is UTF-8`, `12: "j": this is no hash`, `13: "k": costs too much`,
	}
	if len(problems) != len(want) {
		t.Fatalf("%d problems: %v", len(problems), problems)
	}
	for i, p := range problems {
		if !strings.HasPrefix(p.Error(), want[i]) || strings.Contains(p.Error(), "hunter2") {
			t.Errorf("%v, want %s", p, want[i])
		}
	}
	if _, problems := ParseHtpasswd(strings.NewReader("a:" + referenceBcrypt + "\n" + strings.Repeat("x", maxLine+1))); len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), "2: is longer") {
		t.Errorf("a long line: %v", problems)
	}
}

// What is accepted is a file with the same users once it is written again.
func FuzzParseHtpasswd(f *testing.F) {
	f.Add("ann:" + referenceBcrypt + "\n#\nbob:" + referenceBcrypt)
	f.Add("ann:$apr1$x$y\n")
	f.Fuzz(func(t *testing.T, text string) {
		edits, problems := ParseHtpasswd(strings.NewReader(text))
		if problems != nil {
			if edits != nil {
				t.Error("there are users beside problems")
			}
			return
		}
		var again strings.Builder
		for _, e := range edits {
			fmt.Fprintf(&again, "%s:%s\n", e.Name, e.Hash)
			if err := errors.Join(e.check()...); err != nil {
				t.Errorf("%q is accepted: %v", e.Name, err)
			}
		}
		same, problems := ParseHtpasswd(strings.NewReader(again.String()))
		if problems != nil || fmt.Sprint(same) != fmt.Sprint(edits) {
			t.Errorf("%q is read as %v, and then as %v (%v)", text, edits, same, problems)
		}
	})
}
