package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/listen"
	"sallyport/proxy/relay"
	"sallyport/proxy/session"
)

// following is a proxy with sessions that have no connections.
type following struct {
	*Proxy
	policies
	observer
	directory
}

func newFollowing(max int) *following {
	f := &following{directory: directory{users: map[string]identity.Standing{}}}
	f.Proxy = &Proxy{
		Decide: &f.policies, Observe: &f.observer, Verify: &f.directory,
		Sessions: session.NewTable(max), Guard: guard.New(10), Usage: openLedger(),
	}
	f.activate(f.Proxy, "1", allowAll)
	return f
}

// begin lets it follow, and returns how that ends.
func (f *following) begin() (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.Follow(ctx)
	}()
	return func() { stop(); <-over }
}

// grant makes a session that has just been granted under the present policy.
func (f *following) grant(t testing.TB, name, host string) *life {
	t.Helper()
	from := netip.MustParseAddrPort("192.0.2.1:5000")
	s, err := f.Sessions.Open(context.Background(), "main", from)
	if err != nil {
		t.Fatal(err)
	}
	l := &life{proxy: f.Proxy, session: s, conn: &listen.Conn{Source: from}, observed: context.Background()}
	client, server := net.Pipe()
	l.flow = relay.Join(client, server, nil, relay.Limits{}, &s.Bytes)
	l.asked = session.Target{Host: host, Port: 443}
	s.SetTarget(host, 443)
	s.SetAddress(netip.MustParseAddrPort("192.0.2.2:443"))
	if name != "" {
		l.who.Name = name
		l.user = user{name: name, groups: true, attributes: true, expires: f.Lookup(name).Expires}
	}
	l.answered = f.Proxy.live.epoch.Load()
	s.Granted()
	f.Proxy.live.add(l)
	return l
}

func isCut(l *life) string {
	if l.session.Context().Err() == nil {
		return ""
	}
	return context.Cause(l.session.Context()).Error()
}

// Ten thousand are asked about each time, each once, and just those are cut
// that have to be.
func TestTenThousandAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		f := newFollowing(n)
		defer f.begin()()
		var lives []*life
		for i := range n {
			lives = append(lives, f.grant(t, "", fmt.Sprintf("host-%d.test", i%4)))
		}
		synctest.Wait()
		if got := f.asked.Load(); got != 0 {
			t.Errorf("%d questions before there is a new policy", got)
		}
		f.activate(f.Proxy, "2", func(stage policy.Stage, facts *policy.Facts) error {
			switch {
			case !facts.Session.Again:
				return errors.New("not asked as again")
			case stage == policy.Route && facts.Target.Host == "host-0.test", stage == policy.Dial && facts.Target.Host == "host-1.test":
				return errors.New("a reason")
			}
			return nil
		})
		synctest.Wait()
		// Each has route, and those that it allows dial.
		if got := f.asked.Load(); got != n+n*3/4 {
			t.Errorf("%d questions", got)
		}
		if len(f.rounds) != 1 || f.rounds[0].Asked != n || f.rounds[0].Cut != n/2 || f.rounds[0].Revision != "2" {
			t.Errorf("the rounds are %+v", f.rounds)
		}
		for i, l := range lives {
			want := []string{"cut: policy 2 denies (route): a reason", "cut: policy 2 denies (dial): a reason", "", ""}[i%4]
			if got := isCut(l); got != want {
				t.Fatalf("session %d: %q, want %q", i, got, want)
			}
		}
		// Those that were cut and have not ended yet are not asked about again.
		before := f.asked.Load()
		f.activate(f.Proxy, "3", allowAll)
		synctest.Wait()
		if got := f.asked.Load() - before; got != n {
			t.Errorf("%d questions in the second round", got)
		}
	})
}

// Users that are gone are cut while others are yet to be asked about, however
// long that takes.
func TestUsersThatAreGoneGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		f := newFollowing(n)
		defer f.begin()()
		f.set("ann", identity.Standing{})
		f.set("bob", identity.Standing{})
		var lives []*life
		for i := range n {
			lives = append(lives, f.grant(t, []string{"ann", "bob"}[i%2], "host.test"))
		}
		gate := make(chan struct{})
		f.set("bob", identity.Standing{Ended: "disabled"})
		f.activate(f.Proxy, "2", func(policy.Stage, *policy.Facts) error {
			<-gate
			return nil
		})
		synctest.Wait()
		for i, l := range lives {
			want := []string{"", "cut: policy 2: the user is disabled"}[i%2]
			if got := isCut(l); got != want {
				t.Fatalf("session %d: %q, want %q", i, got, want)
			}
		}
		close(gate)
		synctest.Wait()
		if len(f.rounds) != 1 || f.rounds[0].Asked != n || f.rounds[0].Cut != n/2 {
			t.Errorf("the rounds are %+v", f.rounds)
		}
	})
}

// A request that is over when its user turns out to be gone takes nothing with it:
// the session may be at another's.
func TestUsersOfWhatIsOverCutNothing(t *testing.T) {
	f := newFollowing(1)
	f.set("ann", identity.Standing{})
	l := f.grant(t, "ann", "host.test")
	l.opening = &opening{}
	one := l.follow()
	due := []*life{one}
	l.unfollow(one)
	f.set("ann", identity.Standing{Ended: "disabled"})
	if r := f.round(t.Context(), due, false); isCut(l) != "" || r.Cut != 0 {
		t.Errorf("%q, %+v", isCut(l), r)
	}
}

// A policy that comes while sessions are being asked about has the last word on
// all of them, however many come.
func TestPolicyInTheMiddleOfARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		f := newFollowing(n)
		defer f.begin()()
		var lives []*life
		for range n {
			lives = append(lives, f.grant(t, "", "host.test"))
		}
		gate := make(chan struct{})
		var count atomic.Int64
		f.activate(f.Proxy, "2", func(policy.Stage, *policy.Facts) error {
			if count.Add(1) == n/2 {
				<-gate
			}
			return nil
		})
		synctest.Wait()
		for i := range 50 {
			f.activate(f.Proxy, fmt.Sprint("2.", i), allowAll)
		}
		f.activate(f.Proxy, "3", denyAll)
		close(gate)
		synctest.Wait()
		for _, l := range lives {
			if got := isCut(l); got != "cut: policy 3 denies (route): no" {
				t.Fatalf("a session ends by %q", got)
			}
		}
		if got := f.asked.Load(); got > 4*n {
			t.Errorf("%d questions", got)
		}
	})
}

// A fault keeps the session and alarms once; it is asked about again without
// being asked, ever less often, until there is an answer.
func TestFaultsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10
		f := newFollowing(n)
		defer f.begin()()
		var lives []*life
		for range n {
			lives = append(lives, f.grant(t, "", "host.test"))
		}
		var mended atomic.Bool
		f.activate(f.Proxy, "2", func(policy.Stage, *policy.Facts) error {
			if mended.Load() {
				return errors.New("at last")
			}
			return errBroken
		})
		synctest.Wait()
		if len(f.rounds) != 1 || f.rounds[0].Faults != n || f.rounds[0].Cut != 0 || !errors.Is(f.rounds[0].Fault.(*refusal).Err, errBroken) {
			t.Fatalf("the rounds are %+v", f.rounds)
		}
		time.Sleep(time.Hour)
		if got := f.asked.Load() / n; got < 60 || got > 70 {
			t.Errorf("each is asked about %d times in an hour", got)
		}
		if len(f.rounds) != 1 {
			t.Errorf("the alarms are %+v", f.rounds)
		}
		// Others that come do not hurry it.
		before := f.asked.Load()
		f.set("ann", identity.Standing{Expires: time.Now().Add(time.Minute)})
		f.Sessions.Cut(lives[0].session.ID, session.ErrCut{Reason: "room"})
		f.remove(lives[0])
		f.grant(t, "ann", "host.test")
		synctest.Wait()
		if got := f.asked.Load() - before; got != 0 {
			t.Errorf("a new session has %d questions asked", got)
		}
		for _, l := range lives[1:] {
			if got := isCut(l); got != "" {
				t.Errorf("a session was cut: %s", got)
			}
		}
		mended.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, l := range lives[1:] {
			if got := isCut(l); got != "cut: policy 2 denies (route): at last" {
				t.Errorf("a session ends by %q", got)
			}
		}
	})
}

func (f *following) remove(l *life) {
	f.Proxy.live.remove(l)
	l.session.Close()
}

// Users that expire lose their sessions then, and not by an old date.
func TestUsersExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(10)
		defer f.begin()()
		begun := time.Now()
		f.set("ann", identity.Standing{Expires: begun.Add(90 * time.Minute)})
		f.set("bob", identity.Standing{Expires: begun.Add(30 * time.Minute)})
		f.set("cid", identity.Standing{Expires: begun.Add(20 * time.Minute)})
		f.set("dan", identity.Standing{})
		ann, bob, cid, dan := f.grant(t, "ann", "a.test"), f.grant(t, "bob", "b.test"), f.grant(t, "cid", "c.test"), f.grant(t, "dan", "d.test")
		later := begun.Add(time.Hour)
		f.set("cid", identity.Standing{Expires: later}) // and no policy that says so
		f.set("dan", identity.Standing{Expires: begun.Add(10 * time.Minute)})
		f.activate(f.Proxy, "2", func(_ policy.Stage, facts *policy.Facts) error {
			if facts.Identity.Name == "cid" && len(facts.Identity.Groups) > 0 {
				return errors.New("groups that nobody has given")
			}
			return nil
		})
		for _, c := range []struct {
			l     *life
			after time.Duration
		}{{dan, 10 * time.Minute}, {bob, 30 * time.Minute}, {cid, time.Hour}, {ann, 90 * time.Minute}} {
			time.Sleep(time.Until(begun.Add(c.after)) - time.Nanosecond)
			synctest.Wait()
			if got := isCut(c.l); got != "" {
				t.Errorf("%s is cut before %v: %s", c.l.who.Name, c.after, got)
			}
			time.Sleep(leastWait + time.Nanosecond)
			synctest.Wait()
			if got := isCut(c.l); got != "cut: policy 2: the user has expired" {
				t.Errorf("%s ends by %q", c.l.who.Name, got)
			}
			f.remove(c.l)
		}
		if got := f.asked.Load(); got != 8 {
			t.Errorf("the policy was asked %d times, though only users expire", got)
		}
	})
}

// Groups and attributes are those of now, but for what authenticate has given.
func TestIdentityIsLookedUpAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(10)
		defer f.begin()()
		f.set("ann", identity.Standing{Groups: []string{"old"}, Attributes: map[string]any{"of": "old"}})
		own, given, none := f.grant(t, "ann", "own.test"), f.grant(t, "ann", "given.test"), f.grant(t, "", "none.test")
		given.user.groups, given.who.Groups = false, []string{"given"}
		given.user.attributes, given.who.Attributes = false, policy.Attributes{"of": "given"}
		none.who = policy.Identity{Name: "token", Groups: []string{"theirs"}}
		f.set("ann", identity.Standing{Groups: []string{"new"}, Attributes: map[string]any{"of": "new"}})
		var mu sync.Mutex
		seen := map[string]string{}
		f.activate(f.Proxy, "2", func(_ policy.Stage, facts *policy.Facts) error {
			mu.Lock()
			defer mu.Unlock()
			seen[facts.Target.Host] = fmt.Sprint(facts.Identity.Name, facts.Identity.Groups, facts.Identity.Attributes)
			return nil
		})
		synctest.Wait()
		for _, c := range []struct {
			l    *life
			want string
		}{{own, "ann[new] map[of:new]"}, {given, "ann[given] map[of:given]"}, {none, "token[theirs] map[]"}} {
			if got := seen[c.l.asked.Host]; got != c.want {
				t.Errorf("%s: %s, want %s", c.l.asked.Host, got, c.want)
			}
		}
		delete(f.users, "ann")
		f.activate(f.Proxy, "3", allowAll)
		synctest.Wait()
		if isCut(own) != "cut: policy 3: the user is gone" || isCut(given) != "cut: policy 3: the user is gone" || isCut(none) != "" {
			t.Errorf("once ann is gone: %q, %q, %q", isCut(own), isCut(given), isCut(none))
		}
	})
}

// A change of the users under the same policy cuts whom it locks out, asks again
// about those of whom something else is said now, and leaves all others alone.
func TestUsersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(10)
		defer f.begin()()
		f.activate(f.Proxy, "2", func(_ policy.Stage, facts *policy.Facts) error {
			if facts.Target.Host == "fault.test" {
				return errBroken
			}
			if facts.Identity.Name != "" && len(facts.Identity.Groups) == 0 {
				return errors.New("in no group")
			}
			return nil
		})
		in := identity.Standing{Groups: []string{"ops"}}
		for _, name := range []string{"gone", "disabled", "anew", "out", "attributes", "same"} {
			f.set(name, in)
		}
		f.activate(f.Proxy, "3", f.policies.active.Load().deny)
		sessions := map[string]*life{}
		for name := range f.users {
			sessions[name] = f.grant(t, name, "host.test")
			sessions[name].who.Groups = in.Groups
		}
		sessions["given"] = f.grant(t, "out", "host.test")
		sessions["given"].user.groups, sessions["given"].who.Groups = false, in.Groups
		fault := f.grant(t, "", "fault.test")
		f.activate(f.Proxy, "4", f.policies.active.Load().deny)
		synctest.Wait()

		before := f.asked.Load()
		delete(f.users, "gone")
		f.set("disabled", identity.Standing{Ended: "disabled"})
		f.set("anew", identity.Standing{Groups: in.Groups, Since: time.Now()})
		f.set("out", identity.Standing{})
		f.set("attributes", identity.Standing{Groups: in.Groups, Attributes: map[string]any{"of": "new"}})
		f.Proxy.Recheck()
		synctest.Wait()
		for name, want := range map[string]string{
			"gone": "cut: policy 4: the user is gone", "disabled": "cut: policy 4: the user is disabled", "anew": "cut: policy 4: the user is gone",
			"out": "cut: policy 4 denies (route): in no group", "attributes": "", "same": "", "given": "",
		} {
			if got := isCut(sessions[name]); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if got := f.asked.Load() - before; got != 3 { // route of two, and dial of the one that it allows
			t.Errorf("%d questions", got)
		}
		if isCut(fault) != "" || f.Sessions.Len() == 0 {
			t.Error("what the policy fails on is cut")
		}
		if last := f.rounds[len(f.rounds)-1]; last.Asked != 5 || last.Cut != 4 || last.Faults != 0 {
			t.Errorf("the round is %+v", last)
		}

		// Who was being decided about meanwhile is found as well.
		late := f.grant(t, "same", "host.test")
		f.Proxy.live.remove(late) // as if it were yet to be granted
		f.set("same", identity.Standing{Ended: "disabled"})
		f.Proxy.Recheck()
		synctest.Wait()
		f.Proxy.live.add(late)
		synctest.Wait()
		if got := isCut(late); got != "cut: policy 4: the user is disabled" {
			t.Errorf("a session that is granted later: %q", got)
		}
	})
}

// A session may end while it is being asked about: the race detector looks on.
func TestEndsWhileItIsAskedAbout(t *testing.T) {
	f := newFollowing(10)
	defer f.begin()() // which waits for what is being asked
	l := f.grant(t, "", "host.test")
	door, err := listen.Open(t.Context(), listen.Config{Name: "main", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	accepted := make(chan *listen.Conn)
	go door.Serve(t.Context(), func(c *listen.Conn) { accepted <- c })
	client, err := net.Dial("tcp", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l.conn = <-accepted
	l.charge(guard.Identity("ann", false), true)
	asked := make(chan struct{}, 9)
	f.activate(f.Proxy, "2", func(policy.Stage, *policy.Facts) error {
		asked <- struct{}{}
		time.Sleep(50 * time.Millisecond) // and no channel, which would put one before the other
		return nil
	})
	<-asked
	l.end()
}
