package distribute

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/logs"
)

const (
	// heldBytes bounds the JSON of the events that wait to be uploaded, however
	// many may wait: an event has up to some hundred KiB of what a client sends.
	heldBytes = 64 << 20
	// worthIt is the JSON that makes a chunk of the usual size, more or less: it
	// shrinks to a tenth.
	worthIt = 10 * uploadBytes
)

// uploads has the plugin upload what is in its buffer: at the intervals of
// OPA's configuration, and when the buffer is half full. It is what OPA's own
// loop is, but that it knows what is held while an upload goes on. OPA does not:
// what a server does not take comes back into a buffer that has been filled
// meanwhile, and drives others out, uncounted; and where uploads are to be
// immediate, each chunk waits in a goroutine of its own, without a bound.
type uploads struct {
	plugin    *logs.Plugin
	most      int64 // in the buffer, in its unit: bytes or events
	slack     int64 // what the encoder holds back, and one event more
	min, max  time.Duration
	immediate bool
	told      func(error) // may be nil

	due   chan struct{} // one place: to upload now
	after chan struct{} // one place: an upload has ended
	stop  chan struct{} // closed when the loop is to end, after the upload that goes on: one that is cut off gives back later what it holds
	ended chan struct{}
	quit  context.Context // ends when what is left is given up
	end   context.CancelFunc

	mu      sync.Mutex
	sending int64 // what the buffer held when the upload began, which goes on
	waiting int64 // bytes of JSON that were pushed and that no upload has taken
	taken   int64 // bytes of JSON, of the upload that goes on
	failure error // of the latest upload
}

func upload(plugin *logs.Plugin, settings *logSettings, told func(error)) *uploads {
	reporting := plugin.Config().Reporting
	u := &uploads{
		plugin: plugin, told: told, most: settings.most, slack: 1, immediate: settings.immediate,
		min: time.Duration(*reporting.MinDelaySeconds), max: time.Duration(*reporting.MaxDelaySeconds),
		due: make(chan struct{}, 1), after: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	if reporting.BufferType == "size" {
		u.slack = min(2**reporting.UploadSizeLimitBytes, u.most/2)
	}
	u.quit, u.end = context.WithCancel(context.Background())
	go u.run()
	return u
}

// room waits until the buffer has room for one more event, or ctx ends.
func (u *uploads) room(ctx context.Context) error {
	for {
		_, held := u.plugin.BufferSize()
		u.mu.Lock()
		full := held+u.sending+u.slack > u.most || u.waiting+u.taken > heldBytes
		due := 2*(held+u.sending) >= u.most || 2*u.waiting >= heldBytes || u.immediate && u.waiting >= worthIt
		failure := u.failure
		u.mu.Unlock()
		if full || due {
			signal(u.due)
		}
		if !full {
			return nil
		}
		select {
		case <-u.after:
		case <-ctx.Done():
			return errors.Join(errFull, failure)
		}
	}
}

// pushed notes that so many bytes of JSON have gone into the buffer.
func (u *uploads) pushed(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.waiting += n
}

func (u *uploads) run() {
	defer close(u.ended)
	next := time.NewTimer(u.delay())
	defer next.Stop()
	due, retry := u.due, 100*time.Millisecond
	for {
		select {
		case <-next.C:
		case <-due:
		case <-u.stop:
			return
		}
		if u.once() == nil {
			due, retry = u.due, 100*time.Millisecond
			next.Reset(u.delay())
			continue
		}
		// Until a server answers, it is not asked more often because there is more.
		due, retry = nil, min(2*retry, max(u.max, time.Second), 30*time.Second)
		next.Reset(retry/2 + rand.N(retry/2))
	}
}

// delay is how long to wait from one upload to the next.
func (u *uploads) delay() time.Duration { return u.min + rand.N(u.max-u.min+1) }

// once uploads what there is. What is not taken stays in the buffer.
func (u *uploads) once() error {
	_, held := u.plugin.BufferSize()
	u.mu.Lock()
	u.sending, u.taken, u.waiting = held+u.slack, u.waiting, 0
	u.mu.Unlock()
	err := u.plugin.Trigger(u.quit)
	u.mu.Lock()
	if err != nil {
		u.waiting += u.taken // compressed it is less
	}
	u.sending, u.taken, u.failure = 0, 0, err
	u.mu.Unlock()
	signal(u.after)
	if u.told != nil {
		u.told(err)
	}
	return err
}

// close uploads what is left, and tries to until ctx ends.
func (u *uploads) close(ctx context.Context) error {
	defer context.AfterFunc(ctx, u.end)()
	defer u.end()
	close(u.stop)
	<-u.ended
	for {
		err := u.once()
		if err == nil {
			return nil
		}
		again := time.NewTimer(200 * time.Millisecond)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return err
		}
	}
}

// signal fills the one place of a channel.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
