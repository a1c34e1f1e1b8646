package upstream

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

// Reach connects to one of the endpoints, by a way through upstreams. They are
// tried in their order until one answers; what fails otherwise is tried by other
// upstreams, where the way leaves a choice, until ctx ends. The connection leaves
// from the local address from, if that is valid.
//
// Every upstream has to be known: see Check. An error is a *dial.HopError, dial.ErrNoHop,
// or a context.Canceled.
func (s *Set) Reach(ctx context.Context, via policy.Via, trip dial.Trip) (dial.Way, error) {
	search := search{set: s, trip: &trip, left: make([][]*member, len(via))}
	now := time.Now()
	for i, hop := range via {
		if search.left[i] = s.choices(hop, trip.Key, now); len(search.left[i]) == 0 {
			return dial.Way{}, dial.ErrNoHop
		}
	}
	for {
		way, err := search.try(ctx)
		if err == nil || !search.goesOn(ctx, err) {
			return way, err
		}
	}
}

// search is one session's search for a way.
type search struct {
	set  *Set
	trip *dial.Trip
	left [][]*member // by hop, those that have not failed, in their order
}

// try tries the way through the first of those that are left.
func (s *search) try(ctx context.Context) (way dial.Way, err error) {
	hops := make([]*dial.Hop, len(s.left))
	for i := range s.left {
		hops[i] = s.left[i][0].hop
	}
	for i, to := range s.trip.To {
		way, err = s.once(ctx, hops, to, s.others()+len(s.trip.To)-1-i)
		var failed *dial.HopError
		if err == nil || !errors.As(err, &failed) || !failed.Target || ctx.Err() != nil {
			break // the next address would fare no better
		}
	}
	return way, err
}

// once tries one way for its share of the time: as much as is left for each of so
// many others.
func (s *search) once(ctx context.Context, hops []*dial.Hop, to dial.Endpoint, others int) (dial.Way, error) {
	if deadline, ok := ctx.Deadline(); ok && others > 0 {
		share := time.Until(deadline) / time.Duration(min(others, mostShares)+1)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	if ahead := s.set.known[hops[0].Name].pool.take(s.trip.From); ahead != nil {
		w := &watcher{set: s.set, next: s.trip.Watch, ahead: true}
		way, err := s.set.dialer.Onward(ctx, s.set.names, ahead, hops, to, w)
		if err == nil || !stale(err) || ctx.Err() != nil {
			return way, err
		}
	}
	return s.set.dialer.Through(ctx, s.set.names, hops, to, s.trip.From, &watcher{set: s.set, next: s.trip.Watch})
}

// stale tells whether a failure may be due to a connection that was opened ahead,
// so that another one is worth while. Nothing of the client's was sent by then.
func stale(err error) bool {
	var failed *dial.HopError
	return errors.As(err, &failed) && failed.At == 0 && !failed.Target && failed.Failure != dial.HopTimeout
}

// mostShares keeps a share of the time long enough to be of use.
const mostShares = 3

// others is how many upstreams there are beside those that are tried now.
func (s *search) others() int {
	n := 0
	for _, left := range s.left {
		n += len(left) - 1
	}
	return n
}

// goesOn takes out the upstream that has failed, and tells whether there is
// another one to try.
func (s *search) goesOn(ctx context.Context, err error) bool {
	var failed *dial.HopError
	if !errors.As(err, &failed) || ctx.Err() != nil || failed.Final() {
		return false
	}
	left := &s.left[failed.At]
	if !failed.Target {
		(*left)[0].failed(time.Now())
	}
	*left = (*left)[1:]
	return len(*left) > 0
}

// watcher measures upstreams and marks how they fare, and passes on what it sees.
type watcher struct {
	set   *Set
	next  dial.Watcher
	ahead bool   // the connection to the first one was there, and says nothing of it
	ready string // the upstream that would take a request
}

func (w *watcher) Began(hop string) { w.next.Began(hop) }

func (w *watcher) Ready(hop string, took time.Duration) {
	w.ready = hop
	if !w.ahead {
		w.set.known[hop].ready(took)
	}
	w.ahead = false
	w.next.Ready(hop, took)
}

func (w *watcher) Done(hop string, at netip.AddrPort, took time.Duration, err error) {
	var failed *dial.HopError
	switch {
	case err == nil:
		w.set.note(w.set.known[hop], "")
	case errors.As(err, &failed) && against(failed, w.ready == failed.Hop, took):
		w.set.note(w.set.known[failed.Hop], reasonOf(err))
	}
	w.next.Done(hop, at, took, err)
}
