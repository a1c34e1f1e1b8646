package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/proxy/relay"
)

var source = netip.MustParseAddrPort("192.0.2.7:4242")

func open(t testing.TB, table *Table) *Session {
	t.Helper()
	s, err := table.Open(context.Background(), "main", source)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Answers about datagrams may have labels of their own, and there may be any number.
func TestLabelsAreBounded(t *testing.T) {
	s, err := NewTable(1).Open(t.Context(), "main", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 10 * MaxLabels {
		s.AddLabels(map[string]string{fmt.Sprint(i): "first"})
	}
	s.AddLabels(map[string]string{"0": "later"})
	if labels := s.Snapshot().Labels; len(labels) != MaxLabels || labels["0"] != "later" {
		t.Errorf("%d labels, %q", len(labels), labels["0"])
	}
}

func TestLife(t *testing.T) {
	table := NewTable(10)
	s := open(t, table)
	if got := s.Snapshot().State; got != Opening {
		t.Errorf("a new session is %q", got)
	}
	s.SetProtocol("socks5")
	s.SetCommand("associate")
	s.SetIdentity("alice")
	s.SetTarget("example.com", 443)
	s.SetAddress(netip.MustParseAddrPort("[2001:db8::1]:443"))
	s.AddLabels(map[string]string{"team": "blue", "tier": "1"})
	s.AddLabels(map[string]string{"tier": "2"})
	s.AddLabels(nil)
	s.Decided("route", "a")
	s.Decided("route", "b")
	s.Granted()
	s.Bytes.Up.Add(3)
	s.Bytes.Down.Add(5)
	var packets relay.PacketCounters
	packets.Up.Add(2)
	packets.Dropped.Add(1)
	s.CountPackets(&packets)

	list := table.List()
	if len(list) != 1 {
		t.Fatalf("%d sessions are listed", len(list))
	}
	list[0].Duration = 1.5
	text, err := json.Marshal(list[0])
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"id":%q,"listener":"main","state":"live","started":%q,"duration":1.5,`+
		`"source":"192.0.2.7:4242","protocol":"socks5","command":"associate","identity":"alice","target":{"host":"example.com","port":443},`+
		`"address":"[2001:db8::1]:443","bytes":{"up":3,"down":5},"datagrams":{"up":2,"down":0,"dropped":1},"labels":{"team":"blue","tier":"2"},"decisions":{"route":"b"}}`,
		s.ID, s.Started.Format(time.RFC3339Nano))
	if string(text) != want {
		t.Errorf("the session reads\n%s, want\n%s", text, want)
	}

	list[0].Labels["team"] = "red"
	if s.Snapshot().Labels["team"] != "blue" {
		t.Error("a snapshot shares its labels with the session")
	}
	s.Close()
	s.Close()
	s.Granted()
	if got := s.Snapshot().State; got != Closed {
		t.Errorf("a closed session is %q", got)
	}
	if table.Len() != 0 || len(table.List()) != 0 {
		t.Error("a closed session is still in the table")
	}
	if cause := context.Cause(s.Context()); cause != context.Canceled {
		t.Errorf("a closed session's context has cause %v", cause)
	}
}

// What is not known yet is there, and empty.
func TestFreshSessionJSON(t *testing.T) {
	s, err := NewTable(1).Open(context.Background(), "unix", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"source":""`, `"address":""`, `"protocol":""`, `"labels":{}`, `"decisions":{}`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s is not in %s", part, text)
		}
	}
}

func TestID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := make(map[string]bool)
	for range 1000 {
		id := newID()
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("%q is no UUID of version 4, or not new", id)
		}
		seen[id] = true
	}
}

func TestFull(t *testing.T) {
	table := NewTable(2)
	s := open(t, table)
	open(t, table)
	if _, err := table.Open(context.Background(), "main", source); !errors.Is(err, ErrFull) {
		t.Errorf("a third session gets %v", err)
	}
	s.Close()
	s.Close() // frees one place, not two
	open(t, table)
	if _, err := table.Open(context.Background(), "main", source); !errors.Is(err, ErrFull) {
		t.Errorf("then a fourth gets %v", err)
	}
}

func TestCut(t *testing.T) {
	table := NewTable(10)
	s, other := open(t, table), open(t, table)
	if table.Cut("nobody", ErrCut{}) {
		t.Error("a session that there is not was cut")
	}
	if !table.Cut(s.ID, ErrCut{Reason: "operator"}) {
		t.Error("the session was not there to be cut")
	}
	table.Cut(s.ID, ErrCut{Reason: "second"})
	s.Close()
	var cut ErrCut
	if !errors.As(context.Cause(s.Context()), &cut) || cut.Reason != "operator" || cut.Error() != "cut: operator" {
		t.Errorf("the cause is %v, want the first", context.Cause(s.Context()))
	}
	if other.Context().Err() != nil {
		t.Error("another was cut as well")
	}
	if table.Cut(s.ID, ErrCut{}) {
		t.Error("a closed session was cut")
	}
	if got, ok := table.Get(other.ID); !ok || got != other {
		t.Error("the other is not to be found")
	}
}

// What was said last is done when the session is cut, whenever that was said.
func TestOnCut(t *testing.T) {
	type calls struct{ first, second int }
	for name, test := range map[string]struct {
		live func(s *Session, first, second func(), cut func())
		want calls
	}{
		"cut": {func(s *Session, first, _, cut func()) {
			s.OnCut(first)
			cut()
		}, calls{first: 1}},
		"replaced": {func(s *Session, first, second, cut func()) {
			s.OnCut(first)
			s.OnCut(second)
			cut()
		}, calls{second: 1}},
		"withdrawn": {func(s *Session, first, _, cut func()) {
			s.OnCut(first)
			s.OnCut(nil)
			cut()
		}, calls{}},
		"withdrawn and replaced": {func(s *Session, first, second, cut func()) {
			s.OnCut(first)
			s.OnCut(nil)
			s.OnCut(second)
			cut()
		}, calls{second: 1}},
		"cut before": {func(s *Session, first, second, cut func()) {
			s.OnCut(nil)
			cut()
			synctest.Wait()
			s.OnCut(first)
			s.OnCut(nil)
			s.OnCut(second)
		}, calls{1, 1}},
		"closed": {func(s *Session, first, _, cut func()) {
			s.OnCut(first)
			s.Close()
			cut()
		}, calls{}},
	} {
		synctest.Test(t, func(t *testing.T) {
			for _, by := range []string{"operator", "server"} {
				ctx, stop := context.WithCancel(context.Background())
				table := NewTable(1)
				s, err := table.Open(ctx, "main", source)
				if err != nil {
					t.Fatal(err)
				}
				cut := func() { table.Cut(s.ID, ErrCut{Reason: "operator"}) }
				if by == "server" {
					cut = stop
				}
				var n calls
				test.live(s, func() { n.first++ }, func() { n.second++ }, cut)
				synctest.Wait()
				if n != test.want {
					t.Errorf("%s by the %s: called %+v, want %+v", name, by, n, test.want)
				}
				s.Close()
				stop()
			}
		})
	}
}

// Where the session was cut before anything was said of that, it is done at once, by
// whoever says it.
func TestOnCutTooLate(t *testing.T) {
	table := NewTable(1)
	s := open(t, table)
	defer s.Close()
	table.Cut(s.ID, ErrCut{Reason: "operator"})
	done := make(chan bool, 2) // and perhaps once more
	s.OnCut(func() { done <- true })
	if len(done) == 0 {
		t.Error("it has returned, and nothing was done")
	}
}

func TestParentContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	s, err := NewTable(1).Open(ctx, "main", source)
	if err != nil {
		t.Fatal(err)
	}
	cancel(ErrCut{Reason: "stop"})
	if cause := context.Cause(s.Context()); cause != (ErrCut{Reason: "stop"}) {
		t.Errorf("the cause is %v", cause)
	}
}

func TestListOldestFirst(t *testing.T) {
	table := NewTable(50)
	var want []string
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			want = append(want, open(t, table).ID)
			time.Sleep(time.Millisecond)
		}
	})
	var got []string
	for _, s := range table.List() {
		got = append(got, s.ID)
	}
	if !slices.Equal(got, want) {
		t.Error("the list is not in order")
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if err := NewTable(1).Drain(context.Background()); err != nil {
			t.Errorf("an empty table drains with %v", err)
		}

		// All close themselves.
		table := NewTable(10)
		s, other := open(t, table), open(t, table)
		done := make(chan error, 1)
		go func() { done <- table.Drain(context.Background()) }()
		synctest.Wait()
		if _, err := table.Open(context.Background(), "main", source); !errors.Is(err, ErrDraining) {
			t.Errorf("while draining, Open gives %v", err)
		}
		s.Close()
		synctest.Wait()
		if len(done) != 0 {
			t.Error("it did not wait for the last")
		}
		other.Close()
		if err := <-done; err != nil {
			t.Errorf("drained with %v", err)
		}

		// One is idle until the end of grace, then cut, and closes when it notices.
		table = NewTable(10)
		s = open(t, table)
		recorded := false
		go func() {
			<-s.Context().Done()
			time.Sleep(time.Second)
			recorded = true
			s.Close()
		}()
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := table.Drain(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 sessions cut") {
			t.Errorf("drained with %v", err)
		}
		if !recorded || time.Since(start) != 61*time.Second {
			t.Errorf("it did not wait for the owner, or too long: %v", time.Since(start))
		}
		if cause := context.Cause(s.Context()); cause != (ErrCut{Reason: ErrDraining.Error()}) {
			t.Errorf("the cause is %v", cause)
		}

		// One never notices.
		table = NewTable(10)
		open(t, table)
		start = time.Now()
		ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		table.Drain(ctx)
		if time.Since(start) != time.Minute+cutGrace {
			t.Errorf("it waited %v for one that does not close", time.Since(start))
		}
	})
}

// Owners write while others list, cut and drain.
func TestConcurrent(t *testing.T) {
	table := NewTable(1000)
	var owners, watchers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		owners.Go(func() {
			for i := range 300 {
				s, err := table.Open(context.Background(), "main", source)
				if err != nil {
					return // draining
				}
				s.SetProtocol("http")
				s.SetIdentity("bob")
				s.SetTarget("example.org", uint16(i))
				s.AddLabels(map[string]string{"n": fmt.Sprint(i)})
				s.Decided("dial", "x")
				s.Granted()
				s.Bytes.Up.Add(1)
				s.Close()
			}
		})
		watchers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, s := range table.List() {
					table.Cut(s.ID, ErrCut{Reason: "test"})
				}
			}
		})
	}
	owners.Wait()
	close(stop)
	watchers.Wait()
	if err := table.Drain(context.Background()); err != nil || table.Len() != 0 {
		t.Errorf("%v, %d left", err, table.Len())
	}
}

func TestOpenCloseAllocations(t *testing.T) {
	table := NewTable(10)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if n := testing.AllocsPerRun(1000, func() {
		s, _ := table.Open(ctx, "main", source)
		s.Close()
	}); n > 6 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOpenClose(b *testing.B) {
	table := NewTable(100000)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 10000 {
		table.Open(ctx, "main", source)
	}
	b.ReportAllocs()
	for range b.N {
		s, _ := table.Open(ctx, "main", source)
		s.Close()
	}
}
