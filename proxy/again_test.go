package proxy

import (
	"testing"

	"sallyport/proxy/relay"
)

// What is found out about a request that is over meanwhile has no consequences
// for the session, which is at another.
func TestWhatIsOverIsNotCut(t *testing.T) {
	f := newFollowing(1)
	l := f.grant(t, "", "host.test")
	l.opening = &opening{limits: relay.Limits{}}
	one := l.follow()
	f.policies.active.Store(&activePolicy{"2", denyAll})
	f.Proxy.live.epoch.Store(&epoch{revision: "2", policy: 2})
	if asked, err := new(asker).attend(one); !asked || err == nil || isCut(l) == "" {
		t.Errorf("of one that goes on: %t, %v, %q", asked, err, isCut(l))
	}

	f = newFollowing(1)
	l = f.grant(t, "", "host.test")
	l.opening = &opening{}
	one = l.follow()
	l.unfollow(one)
	f.policies.active.Store(&activePolicy{"2", denyAll})
	f.Proxy.live.epoch.Store(&epoch{revision: "2", policy: 2})
	if _, err := new(asker).attend(one); err != nil || one.cut(errBroken) || isCut(l) != "" {
		t.Errorf("of one that is over: %v, %q", err, isCut(l))
	}
	if n := len(f.Proxy.live.lives); n != 1 {
		t.Errorf("%d are live", n)
	}
}
