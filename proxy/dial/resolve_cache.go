package dial

import (
	"context"
	"time"
)

// remembered is the answer to a question that is kept; nil where there is none.
func (r *Resolver) remembered(q question) *answer {
	if r.kept == nil {
		return nil
	}
	a, ok := r.kept.Get(q)
	if !ok || !time.Now().Before(a.until) {
		return nil
	}
	return a
}

// remember keeps an answer for as long as it says and the operator allows.
func (r *Resolver) remember(q question, a *answer) {
	o := &r.options
	var ttl time.Duration
	switch {
	case r.kept == nil:
		return
	case a.failure == nil:
		ttl = min(max(a.ttl, o.MinTTL), o.MaxTTL)
	case a.failure.class == ErrUnresolved:
		if !a.bounded { // nothing says for how long: not kept (RFC 2308, section 5)
			return
		}
		ttl = min(max(a.ttl, o.MinTTL), o.NegativeTTL)
	default:
		ttl = failureKept
	}
	if ttl > 0 {
		a.until = time.Now().Add(ttl)
		r.kept.Add(q, a)
	}
}

// flight is a question that is being asked, for all who want to know.
type flight struct {
	done    chan struct{}
	answer  *answer // once done is closed
	cancel  context.CancelFunc
	waiting int // by the mutex of the resolver
}

// fly asks a question, or joins whoever asks it already.
func (r *Resolver) fly(q question) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.flights[q]
	if f == nil {
		ctx, cancel := context.WithCancel(r.ctx)
		f = &flight{done: make(chan struct{}), cancel: cancel}
		r.flights[q] = f
		r.running.Go(func() { r.run(ctx, q, f) })
	}
	f.waiting++
	return f
}

func (r *Resolver) run(ctx context.Context, q question, f *flight) {
	defer f.cancel()
	select {
	case r.slots <- struct{}{}:
		f.answer = r.ask(ctx, q)
		<-r.slots
	case <-ctx.Done():
		f.answer = failed("timeout", "called off", ErrResolveTimeout)
	}
	r.mu.Lock()
	if r.flights[q] == f {
		delete(r.flights, q)
	}
	r.mu.Unlock()
	if ctx.Err() == nil {
		r.remember(q, f.answer)
	}
	close(f.done)
}

// leave gives up waiting. What nobody waits for any more is called off.
func (r *Resolver) leave(f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return
	}
	f.cancel()
	for q, other := range r.flights {
		if other == f {
			delete(r.flights, q)
		}
	}
}
