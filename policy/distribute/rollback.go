package distribute

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode"

	"sallyport/policy/audit"
)

// Sequence reads metadata.sequence of a bundle's manifest, by which it is ordered
// among those of its name: nil where there is none. Anything but a whole number
// that is not negative is an error.
func Sequence(metadata map[string]any) (*uint64, error) {
	value, ok := metadata["sequence"]
	if !ok {
		return nil, nil
	}
	var text string
	switch value := value.(type) {
	case json.Number:
		text = value.String()
	case float64:
		text = strconv.FormatFloat(value, 'f', -1, 64)
	case int:
		text = strconv.Itoa(value)
	case int64:
		text = strconv.FormatInt(value, 10)
	default:
		written, _ := json.Marshal(value) // it came from JSON
		return nil, fmt.Errorf("metadata.sequence: want a whole number, got %.64s", written)
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return &n, nil
	}
	// 1e3 and 7.0 are whole, too; beyond 2^53 a float may be another number than was written.
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || f != math.Trunc(f) || f > 1<<53 {
		return nil, fmt.Errorf("metadata.sequence: want a whole number that is not negative, got %.64s", text)
	}
	n := uint64(f)
	return &n, nil
}

// maxRevision is how long, in bytes, the revision of a distributed bundle may be.
const maxRevision = 128

// advice is what an operator does who wants the old one nevertheless.
const advice = "to go back, publish the old content under a higher metadata.sequence, or set policy.rollback: allow"

// Forward tells whether a bundle is no older than what was active under its name
// before, which history has; known is false where nothing was. A signature does not
// say so: an old bundle stays validly signed. What was active last may come again.
//
// The order is that of metadata.sequence in the manifests. Two bundles of one
// sequence have the same content, and a bundle without one does not follow one
// that has it. Where neither has one, it is the order of the revisions where they
// are whole numbers; and else a revision that was active before does not come
// again. A bundle without a revision is known by its digest.
//
// The error is why the bundle is refused.
func Forward(history *audit.History, known bool, b *audit.Source) error {
	printable := !slices.ContainsFunc([]rune(b.Revision), func(r rune) bool { return !unicode.IsPrint(r) })
	if len(b.Revision) > maxRevision || !printable {
		return fmt.Errorf("the revision has to have at most %d bytes, all of them printable", maxRevision)
	}
	recorded := b.Recorded() // as the history has others
	b = &recorded
	if !known || same(&history.Last, b) {
		return nil
	}
	if highest := history.Highest; highest != nil {
		switch {
		case b.Sequence == nil:
			return fmt.Errorf("older: its manifest has no metadata.sequence, and that of a bundle that was active has %d; %s", *highest.Sequence, advice)
		case *b.Sequence < *highest.Sequence:
			return fmt.Errorf("older: its metadata.sequence is %d, and %d was active; %s", *b.Sequence, *highest.Sequence, advice)
		case *b.Sequence == *highest.Sequence && b.Digest != highest.Digest:
			return fmt.Errorf("its metadata.sequence is %d, as that of another bundle that was active: each needs its own", *b.Sequence)
		}
		return nil
	}
	if b.Sequence != nil {
		return nil
	}
	if n, ok := b.Number(); ok && history.Number != nil {
		if n < *history.Number {
			return fmt.Errorf("older: its revision is %d, and %d was active; %s", n, *history.Number, advice)
		}
		return nil
	}
	if slices.Contains(history.Seen, b.Identity()) && b.Identity() != history.Last.Identity() {
		return fmt.Errorf("older: %q was active before, and %q after it; %s", b.Identity(), history.Last.Identity(), advice)
	}
	return nil
}

// same tells whether two bundles are the same one.
func same(a, b *audit.Source) bool {
	return a.Digest != "" && a.Digest == b.Digest && a.Revision == b.Revision &&
		(a.Sequence == nil) == (b.Sequence == nil) && (a.Sequence == nil || *a.Sequence == *b.Sequence)
}
