package proxy

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/policy"
	"sallyport/proxy/identity"
	"sallyport/proxy/session"
	"sallyport/proxy/usage"
)

// policies is a decider whose policy is a function. It allows where that
// returns nil.
type policies struct {
	active atomic.Pointer[activePolicy]
	asked  atomic.Int64 // questions

	inspects atomic.Bool // whether it has the stage inspect
}

type activePolicy struct {
	revision string
	deny     func(stage policy.Stage, f *policy.Facts) error
}

var errBroken = errors.New("broken")

func (d *policies) activate(p *Proxy, revision string, deny func(policy.Stage, *policy.Facts) error) {
	d.active.Store(&activePolicy{revision, deny})
	p.Reask(revision)
}

func (d *policies) Decide(_ context.Context, stage policy.Stage, f *policy.Facts) policy.Decision {
	active := d.active.Load()
	d.asked.Add(1)
	answer := policy.Decision{ID: "id", Stage: stage, Revision: active.revision, Verdict: policy.Allowed, Allow: true}
	switch err := active.deny(stage, f); {
	case errors.Is(err, errBroken):
		answer.Verdict, answer.Err = policy.Fault, err
	case err != nil:
		answer.Verdict, answer.Deny = policy.Denied, policy.Set{err.Error()}
	}
	return answer
}

func (d *policies) Recall(context.Context, policy.Stage, *policy.Facts) (policy.Decision, bool) {
	return policy.Decision{}, false
}

func (d *policies) Asks(stage policy.Stage) bool { return stage != policy.Inspect || d.inspects.Load() }

func allowAll(policy.Stage, *policy.Facts) error { return nil }

func denyAll(policy.Stage, *policy.Facts) error { return errors.New("no") }

// observer is an observer that keeps the rounds and the records.
type observer struct {
	mu      sync.Mutex
	rounds  []session.Round
	records []session.Record
}

func (o *observer) Accepted(ctx context.Context, _ *session.Session) context.Context { return ctx }
func (o *observer) Decided(context.Context, *policy.Decision, time.Duration)         {}
func (o *observer) DecidedAgain(context.Context, *policy.Decision, time.Duration)    {}
func (o *observer) Authenticated(policy.Method, string)                              {}
func (o *observer) HandshakeDone(context.Context, session.TraceContext, time.Duration) {
}
func (o *observer) Began(context.Context, string)                                          {}
func (o *observer) AddressDecided(context.Context, netip.Addr, *policy.Decision)           {}
func (o *observer) Resolved(context.Context, string, bool, time.Duration)                  {}
func (o *observer) Dropped(string, int)                                                    {}
func (o *observer) Refused(string)                                                         {}
func (o *observer) RequestEnded(context.Context, *session.Request)                         {}
func (o *observer) Dialled(context.Context, string, string, netip.AddrPort, time.Duration) {}

func (o *observer) Reasked(r *session.Round) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rounds = append(o.rounds, *r)
}

func (o *observer) SessionEnded(_ context.Context, r *session.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.records = append(o.records, *r)
}

// directory is a user directory.
type directory struct {
	mu    sync.Mutex
	users map[string]identity.Standing
}

func (d *directory) set(name string, s identity.Standing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users[name] = s
}

func (d *directory) Lookup(name string) identity.Standing {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.users[name]
	switch {
	case !ok:
		return identity.Standing{Ended: "gone"}
	case !s.Expires.IsZero() && !time.Now().Before(s.Expires):
		return identity.Standing{Ended: "expired"}
	}
	return s
}

func (d *directory) Verify(_ context.Context, name, _ string) (identity.Result, error) {
	s := d.Lookup(name)
	return identity.Result{
		Known: s.Ended != "gone", Verified: s.Ended == "",
		Groups: s.Groups, Attributes: s.Attributes, Expires: s.Expires,
	}, nil
}

func (d *directory) Remembered(string, string) (identity.Result, bool) {
	return identity.Result{}, false
}

func openLedger() *usage.Ledger {
	l, err := usage.Open(usage.Options{Retention: time.Hour, Rows: 100, Identities: 100})
	if err != nil {
		panic(err) // there is no store
	}
	return l
}
