package engine

import (
	"testing"

	"sallyport/policy"
)

// Who cannot wait is told what is remembered, as anybody else would be, and nothing
// that would have to be evaluated, looked for or waited for.
func TestRecall(t *testing.T) {
	const pure = "package sallyport.route\nallow if input.target.port == 443"
	for name, c := range map[string]struct {
		policy string
		waits  bool // the log
		known  bool // once it was decided
	}{
		"what is pure":              {policy: pure, known: true},
		"where the log waits":       {policy: pure, waits: true},
		"what reads a clock":        {policy: pure + "\nallow if time.now_ns() == 0"},
		"what prints":               {policy: "package sallyport.route\nallow if { print(\"asked\"); input.target.port == 443 }"},
		"what asks for the process": {policy: "package sallyport.route\nallow if input.source.process.pid == 7"},
	} {
		t.Run(name, func(t *testing.T) {
			recorded := 0
			record := func(*Event) error { recorded++; return nil }
			e := decider(t, Options{Lenient: true, Record: record, RecordWaits: c.waits, Print: func(*Printed) {}}, nil, c.policy)
			facts := egressFacts()
			who := &client{}
			facts.Client = who
			if d, known := e.Recall(t.Context(), policy.Route, facts); known || d.ID != "" || recorded != 0 || who.asked != 0 {
				t.Errorf("before it was decided: %+v, recorded %d times, looked for %d processes", d, recorded, who.asked)
			}
			want := e.Decide(t.Context(), policy.Route, facts)
			looked := who.asked
			got, known := e.Recall(t.Context(), policy.Route, facts)
			if known != c.known || who.asked != looked {
				t.Fatalf("known: %t, want %t; looked for %d processes more", known, c.known, who.asked-looked)
			}
			if known && (got.Verdict != want.Verdict || !got.Memoised || got.ID == want.ID || recorded != 2) {
				t.Errorf("recalled %+v, recorded %d times; decided %+v", got, recorded, want)
			}
		})
	}
}
