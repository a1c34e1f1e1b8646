package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
)

// TestInspectedWhileAskedAgain: a new policy comes and other sessions begin and
// end while the first bytes of one are judged. That knows its own facts still, and what
// it says is what the record says.
func TestInspectedWhileAskedAgain(t *testing.T) {
	for _, deny := range []bool{false, true} {
		t.Run(fmt.Sprint(deny), func(t *testing.T) {
			here, on := make(chan struct{}), make(chan struct{})
			var met atomic.Bool
			d := openDoor(t, func(step string) {
				if step == "inspect" && met.CompareAndSwap(false, true) {
					close(here)
					<-on
				}
			})
			d.inspects.Store(true)
			var seen atomic.Pointer[policy.Facts]
			again := make(chan struct{}, 1)
			rule := func(stage policy.Stage, f *policy.Facts) error {
				if stage == policy.Dial && f.Session.Again {
					select {
					case again <- struct{}{}:
					default:
					}
				}
				if stage != policy.Inspect || f.Asked.Host != "first.test" {
					return nil
				}
				kept := *f
				seen.Store(&kept)
				if deny {
					return errors.New("not this")
				}
				return nil
			}
			d.activate(d.Proxy, "2", rule)
			c, r, err := d.connect("first.test")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: seen.test\r\n\r\n")
			<-here
			for i := range 5 {
				d.set("ann", identity.Standing{Groups: []string{fmt.Sprint(i)}})
				d.activate(d.Proxy, fmt.Sprint("3.", i), rule)
				<-again
				other, r, err := d.connect("other.test")
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(other, "SSH-2.0\r\n")
				if _, err := io.ReadFull(r, make([]byte, 9)); err != nil {
					t.Error(err)
				}
				other.Close()
			}
			close(on)
			got, err := io.ReadAll(io.LimitReader(r, 10))
			if deny == (len(got) > 0) {
				t.Errorf("heard %q, %v", got, err)
			}
			c.Close()
			d.empty(t)
			f := seen.Load()
			if f.Identity.Name != "ann" || len(f.Identity.Groups) != 1 || f.Identity.Groups[0] != "dev" || f.Target.Host != "first.test" ||
				f.Flow.Host != "seen.test" || f.Session.Again || len(f.Request.Headers) == 0 {
				t.Errorf("inspect is asked with %+v", f)
			}
			outcome, reasons := "ok", 0
			if deny {
				outcome, reasons = "denied", 1
			}
			d.observer.mu.Lock()
			defer d.observer.mu.Unlock()
			for _, r := range d.records {
				if r.Asked.Host == "first.test" && (r.Outcome != outcome || len(r.Reasons) != reasons || r.Decisions.Of("inspect") == "") {
					t.Errorf("the record is %+v", r)
				}
			}
			counts, _ := d.Guard.Enter(guard.Address(netip.MustParseAddr("127.0.0.1")), 0)
			if int(counts.Denials.Minute) != reasons {
				t.Errorf("%d denials are counted", counts.Denials.Minute)
			}
		})
	}
}

// Sessions end with the certificates that their clients have shown, whatever the
// user directory says, and no new policy ends those that it does not know.
func TestCertificatesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(10)
		begun := time.Now()
		f.set("ann", identity.Standing{Expires: begun.Add(time.Hour)})
		f.set("bob", identity.Standing{Expires: begun.Add(10 * time.Minute)})
		alone, both, first, never := f.grant(t, "", "a.test"), f.grant(t, "ann", "b.test"), f.grant(t, "bob", "c.test"), f.grant(t, "", "d.test")
		alone.who.Name = "spiffe://example.org/job"
		for l, after := range map[*life]time.Duration{alone: 30 * time.Minute, both: 20 * time.Minute, first: time.Hour, never: 200 * 365 * 24 * time.Hour} {
			l.secured = &secured{version: "1.3", certificate: policy.Certificate{
				FingerprintSHA256: "00", NotAfter: begun.Add(after).UnixNano(),
			}}
			l.user.expires = l.until(f.Lookup(l.user.name).Expires)
		}
		defer f.begin()()
		f.activate(f.Proxy, "2", func(_ policy.Stage, facts *policy.Facts) error {
			if facts.Source.Certificate.FingerprintSHA256 != "00" || facts.Session.TLS.Version != "1.3" {
				return errors.New("it is not known what the client has shown")
			}
			return nil
		})
		for _, c := range []struct {
			l     *life
			after time.Duration
			want  string
		}{
			{first, 10 * time.Minute, "cut: policy 2: the user has expired"},
			{both, 20 * time.Minute, "cut: policy 2: the client's certificate has expired"},
			{alone, 30 * time.Minute, "cut: policy 2: the client's certificate has expired"},
		} {
			time.Sleep(time.Until(begun.Add(c.after)) - time.Nanosecond)
			synctest.Wait()
			if got := isCut(c.l); got != "" {
				t.Errorf("it is cut before %v: %s", c.after, got)
			}
			time.Sleep(leastWait + time.Nanosecond)
			synctest.Wait()
			if got := isCut(c.l); got != c.want {
				t.Errorf("after %v: %q, want %q", c.after, got, c.want)
			}
			f.remove(c.l)
		}
		if got := isCut(never); got != "" {
			t.Error(got)
		}
	})
}
