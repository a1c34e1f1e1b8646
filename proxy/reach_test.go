package proxy

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"sallyport/proxy/dial"
)

// A target that takes too long is told as such, though the context of the dial has
// ended at that moment, too; a session that was cut is not the target's failure.
func TestTimeIsNotCut(t *testing.T) {
	late, end := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer end()
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	failed := fmt.Errorf("dial: %w", dial.ErrTimeout)
	if err := calledOff(late, failed); endingOf(err).name != "timeout" {
		t.Errorf("too late: %v", err)
	}
	if err := calledOff(cut, failed); !errors.Is(err, context.Canceled) || errors.Is(err, dial.ErrTimeout) {
		t.Errorf("cut: %v", err)
	}
	if err := errors.Join(calledOff(cut, nil), calledOff(late, nil)); err != nil {
		t.Errorf("one that has come about: %v", err)
	}
}
