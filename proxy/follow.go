package proxy

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/proxy/session"
)

// epoch is the time of one policy and one set of users, until the next is
// active. A session remembers the epoch in which it began to be decided about:
// if that is not the present one when it is granted, its user is looked up anew,
// and it is asked about again if the policy is another one or says so of the
// user. So a new policy misses no session, whatever it was doing at that moment.
type epoch struct {
	revision string
	policy   int64 // counts policies
	number   int64 // counts epochs
}

func (e *epoch) name() string {
	if e == nil {
		return ""
	}
	return e.revision
}

// samePolicy tells whether the policy is the same in both. Nil is the time before
// the first one.
func (e *epoch) samePolicy(other *epoch) bool {
	if e == nil || other == nil {
		return e == other
	}
	return e.policy == other.policy
}

const (
	// A round that could not decide about everybody is followed by another, after
	// a pause that doubles up to the longest.
	firstRetry   = time.Second
	longestRetry = time.Minute

	// The user directory's clock is looked at once in a while, in case it was
	// set, and users that expire one after another are cut together.
	longestWait = time.Minute
	leastWait   = 100 * time.Millisecond
)

// live are the sessions that have been granted, and what has to be done about
// them. The zero value is ready.
type live struct {
	epoch atomic.Pointer[epoch]

	mu    sync.Mutex
	lives map[*life]struct{}
	next  time.Time     // when the first of their users expires; zero: never
	woken chan struct{} // has something when Follow has something to do
}

// Reask says that another policy, or another set of users, answers from now on,
// and under which revision: what earlier decisions have said of limits is
// forgotten. Follow asks about every live session again; those
// that are yet to be granted are seen to as well. It does not wait.
func (p *Proxy) Reask(revision string) {
	p.live.enter(func(e *epoch) { e.revision, e.policy = revision, e.policy+1 })
	p.Guard.Forget()
	p.Usage.Forget()
	p.live.wake()
}

// Recheck says that the user directory has changed under the same policy. Follow
// looks the users of all live sessions up anew, and asks again about those of
// whom something else is said now. It does not wait.
func (p *Proxy) Recheck() {
	p.live.enter(func(*epoch) {})
	p.live.wake()
}

// enter begins another epoch, which is the present one but for the change.
func (v *live) enter(change func(*epoch)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var next epoch
	if present := v.epoch.Load(); present != nil {
		next = *present
	}
	next.number++
	change(&next)
	v.epoch.Store(&next)
}

// wake makes Follow look. It does not wait.
func (v *live) wake() {
	select {
	case v.waking() <- struct{}{}:
	default: // it is about to
	}
}

func (v *live) waking() chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.woken == nil {
		v.woken = make(chan struct{}, 1)
	}
	return v.woken
}

// add takes in a life that has been granted.
func (v *live) add(l *life) {
	v.mu.Lock()
	if v.lives == nil {
		v.lives = map[*life]struct{}{}
	}
	v.lives[l] = struct{}{}
	expires := l.user.expires
	sooner := !expires.IsZero() && (v.next.IsZero() || expires.Before(v.next))
	if sooner {
		v.next = expires
	}
	stale := l.answered != v.epoch.Load() // looked at only now, when Follow can find it
	v.mu.Unlock()
	if sooner || stale {
		v.wake()
	}
}

func (v *live) remove(l *life) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.lives, l)
}

// Follow sees to it that live sessions follow the policy: it asks about them
// again when Reask has been called, and cuts those whose users are gone,
// disabled or expired. A session that the policy fails on is kept, and asked
// about again later. It returns when ctx ends.
func (p *Proxy) Follow(ctx context.Context) {
	v := &p.live
	timer := time.NewTimer(longestWait)
	defer timer.Stop()
	var alarmed *epoch      // the last one in which the policy has failed
	var pause time.Duration // before those that it failed on are asked about; 0: there are none
	var then time.Time      // the end of the pause
	for {
		now, present := time.Now(), v.epoch.Load()
		retry := pause > 0 && !now.Before(then)
		round := p.round(ctx, v.due(present, now), retry)
		anew := alarmed == nil || !alarmed.samePolicy(present)
		if round.Asked > 0 && (round.Faults == 0 || anew) {
			p.Observe.Reasked(&round)
		}
		switch {
		case round.Faults > 0 && anew:
			alarmed, pause = present, firstRetry
			then = now.Add(round.Took + pause)
		case round.Faults > 0 && (retry || pause == 0):
			pause = min(max(2*pause, firstRetry), longestRetry)
			then = now.Add(round.Took + pause)
		case retry:
			pause = 0
		}

		wait := v.expiry(time.Now())
		if pause > 0 {
			wait = min(wait, time.Until(then))
		}
		timer.Reset(wait)
		select {
		case <-v.waking():
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// due are the lives that have something to be done about: those that were
// decided about in another epoch, and those whose users may have expired.
func (v *live) due(present *epoch, now time.Time) []*life {
	v.mu.Lock()
	defer v.mu.Unlock()
	var due []*life
	for l := range v.lives {
		stale := l.answered != present
		expired := !l.user.expires.IsZero() && !now.Before(l.user.expires)
		if (stale || expired) && l.session.Context().Err() == nil {
			due = append(due, l)
		}
	}
	return due
}

// expiry finds the first of the live sessions' users to expire, and returns how
// long that is to be waited for.
func (v *live) expiry(now time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.next = time.Time{}
	for l := range v.lives {
		e := l.user.expires
		if !e.IsZero() && (v.next.IsZero() || e.Before(v.next)) && l.session.Context().Err() == nil {
			v.next = e
		}
	}
	if v.next.IsZero() {
		return longestWait
	}
	return min(max(v.next.Sub(now), leastWait), longestWait)
}

// round sees to some lives, a few at a time, so that new decisions find an
// evaluator free, and each under the policy that is active when its turn comes.
// Those on which that policy has failed wait for the retry.
func (p *Proxy) round(ctx context.Context, lives []*life, retry bool) session.Round {
	if len(lives) == 0 {
		return session.Round{}
	}
	start := time.Now()
	present := p.live.epoch.Load()
	round := session.Round{Revision: present.name()}
	lives = p.dismiss(lives, present, &round)
	if !retry {
		lives = slices.DeleteFunc(lives, func(l *life) bool { return l.faulted != nil && l.faulted.samePolicy(present) })
	}
	var mu sync.Mutex // guards round
	var next atomic.Int64
	var asking sync.WaitGroup
	for range min(max(1, runtime.GOMAXPROCS(0)/2), len(lives)) {
		asking.Go(func() {
			a := new(asker)
			for i := next.Add(1) - 1; i < int64(len(lives)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				asked, err := a.attend(lives[i])
				if asked {
					mu.Lock()
					count(&round, err)
					mu.Unlock()
				}
			}
		})
	}
	asking.Wait()
	round.Took = time.Since(start)
	return round
}

// dismiss cuts those whose users may not log in any more, and returns the others:
// no question is needed for it, and so it need not wait for thousands of them.
func (p *Proxy) dismiss(lives []*life, under *epoch, r *session.Round) []*life {
	return slices.DeleteFunc(lives, func(l *life) bool {
		err := l.standing(under)
		if err == nil {
			return false
		}
		if l.cut(err) && l.answered != under {
			count(r, err)
		}
		return true
	})
}

func count(r *session.Round, err error) {
	r.Asked++
	var cut session.ErrCut
	var fault *refusal
	switch {
	case errors.As(err, &cut):
		r.Cut++
	case errors.As(err, &fault):
		if r.Faults++; r.Faults == 1 {
			r.Revision, r.Fault = fault.Revision, fault
		}
	}
}
