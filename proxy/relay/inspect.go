package relay

import (
	"errors"
	"io"
	"os"
	"time"
)

// Inspection is a look at the first bytes that a client sends. They are held back
// until they have been judged, and then go to the target unchanged; the other
// direction flows meanwhile.
type Inspection struct {
	Most   int                      // bytes that are held back
	Wait   time.Duration            // for all of them, from the flow's beginning
	Enough func(first []byte) bool  // whether more need not be waited for; asked whenever some have come, of all
	Judge  func(first []byte) error // called once; an error ends the flow and is told with Cut
}

// Inspect has the flow inspected. It is called before Start.
func (f *Flow) Inspect(i Inspection) { f.inspection = &i }

// inspect gathers the first bytes and has them judged, early ones among them. It
// returns what is to be sent, and how the source ended if it did.
func (d *direction) inspect(i *Inspection, early []byte) (first []byte, received error) {
	first = early[:len(early):len(early)] // so that nothing is read into a rest of few bytes
	if !d.flow.readUntil(d, time.Now().Add(i.Wait)) {
		return nil, errOver
	}
	for received == nil && len(first) < i.Most && !i.Enough(first) {
		if len(first) == cap(first) { // and not before: a stranger chooses how few come at a time
			first = append(make([]byte, 0, min(max(2*len(first), 4096), i.Most)), first...)
		}
		var n int
		n, received = d.src.Read(first[len(first):cap(first)])
		first = first[:len(first)+n]
	}
	if !d.flow.readUntil(d, time.Time{}) {
		return nil, errOver
	}
	if errors.Is(received, os.ErrDeadlineExceeded) {
		received = nil
	}
	if received != nil && !errors.Is(received, io.EOF) {
		return nil, received
	}
	d.flow.inspection = nil // what Judge refers to is needed no more
	var err error
	d.task.Aside(func() { err = i.Judge(first) })
	if err != nil {
		d.flow.halt(Cut, err)
		return nil, errOver
	}
	return first, received
}

// readUntil sets the source's deadline, unless the flow is over, whose deadline
// must stand. It reports whether it is not.
func (f *Flow) readUntil(d *direction, at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	return d.src.SetReadDeadline(at) == nil
}
