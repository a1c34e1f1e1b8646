package engine

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"sallyport/policy"
)

// TestLoggedFactsAreTheInput: the JSON that is logged of any facts is that of
// the values which an evaluation is given.
func TestLoggedFactsAreTheInput(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		var f policy.Facts
		fill(reflect.ValueOf(&f).Elem(), rng)
		for _, stage := range policy.Stages() {
			p := planned(stage, "input")
			value, failed := p.input(&f)
			text, err := p.json(nil, reflect.ValueOf(&f).Elem())
			if (err == nil) != (failed == nil) {
				t.Fatalf("%v, and in JSON %v", failed, err)
			}
			if err == nil {
				sameJSON(t, text, value)
			}
		}
	}
}

func TestValuesInJSON(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `set()`, `null`, `true`, `[1, -2.5, 1e3, 12345678901234567890]`, `{"b": {"a": [{}]}, "": ""}`,
		`{"b", "a", "ä"}`, `{1: "one", [2]: {"two"}, null: null, true: false, {"k": "v"}: 3}`,
		`{"\"\\/\b\f\n\r\t\u0000\u001f\u007f\u2028<>&é\ud83d\ude00": "\"\\/\b\f\n\r\t\u0000\u001f\u007f\u2028<>&é\ud83d\ude00"}`,
	} {
		value := ast.MustParseTerm(text).Value
		sameJSON(t, appendValue(nil, value), value)
	}
	// What to_number leaves as it was is no JSON, and ast.JSON does not mend it.
	for text, want := range map[string]string{
		"+9": "9", ".5": "0.5", "5.": "5", "007": "7", "0x1p4": "16", "1e999": "1e999", "+1e999": `"+1e999"`,
	} {
		if got := string(appendValue(nil, ast.Number(text))); got != want {
			t.Errorf("%s is written as %s, want %s", text, got, want)
		}
	}
	broken := ast.NewObject([2]*ast.Term{ast.StringTerm("a\xc3("), ast.StringTerm("\xed\xa0\x80")})
	sameJSON(t, appendValue(nil, broken), broken)
}

func sameJSON(t *testing.T, text []byte, value ast.Value) {
	t.Helper()
	plain, err := ast.JSON(value)
	if err != nil {
		t.Fatal(err)
	}
	marshalled, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := util.UnmarshalJSON(text, &got); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if err := util.UnmarshalJSON(marshalled, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %s\nwant %s", text, marshalled)
	}
}
