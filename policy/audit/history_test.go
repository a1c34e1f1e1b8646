package audit

import (
	"fmt"
	"testing"
)

func TestHistoryIsBounded(t *testing.T) {
	known := histories{}
	for i := range 3 * maxSeen {
		known.learn(&Record{Outcome: Activated, Sources: []Source{{Name: "a", Revision: fmt.Sprint("r", i)}, {Name: fmt.Sprint(i)}}})
	}
	if h := known["a"]; len(h.Seen) != maxSeen || h.Seen[maxSeen-1] != fmt.Sprint("r", 3*maxSeen-1) || len(known) != maxBundles {
		t.Errorf("%d revisions of %d bundles", len(h.Seen), len(known))
	}
	known.learn(&Record{Outcome: Continued, Sources: []Source{{Name: "a"}}, History: &History{Highest: &Source{}}})
	if h := known["a"]; h.Highest != nil {
		t.Error("a highest sequence that is none is taken over")
	}
}
