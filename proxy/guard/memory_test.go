package guard

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryLevels(t *testing.T) {
	for _, c := range []struct {
		was  Level
		used uint64
		want Level
	}{
		{Enough, 0, Enough}, {Enough, 139, Enough}, {Enough, 140, Scarce}, {Enough, 149, Scarce}, {Enough, 150, Critical}, {Enough, 1000, Critical},
		{Scarce, 119, Enough}, {Scarce, 120, Scarce}, {Scarce, 149, Scarce}, {Scarce, 150, Critical},
		{Critical, 119, Enough}, {Critical, 120, Scarce}, {Critical, 149, Scarce}, {Critical, 160, Critical},
	} {
		if got := next(c.was, c.used, 160); got != c.want {
			t.Errorf("from %d, %d of 160 in use is %d, want %d", c.was, c.used, got, c.want)
		}
	}
	for all, want := range map[uint64]Level{0: Enough, 179: Enough, 180: Scarce, 199: Scarce, 200: Critical} {
		if got := lagging(all, 160); got != want {
			t.Errorf("%d of 160 with all garbage is %d, want %d", all, got, want)
		}
	}
}

func TestMemoryIsRead(t *testing.T) {
	m := NewMemory(1 << 30)
	held := make([]byte, 64<<20)
	m.collect()
	before := m.read()
	m.collect()
	after := m.read()
	runtime.KeepAlive(held)
	if before.alive < 64<<20 || before.all < 64<<20 || before.all > 1<<30 || after.collections != before.collections+1 {
		t.Errorf("with %d bytes held %+v are in use, then %+v", len(held), before, after)
	}
	if (*Memory)(nil).Scarce() || m.Scarce() {
		t.Error("memory is scarce before anybody has looked")
	}
}

// What is done as memory is used up and given back. Only a collection tells what is
// in use: without another one it is made, ever more seldom.
func TestMemoryWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards these
		var alive, live, all, collections uint64 = 10, 10, 10, 0
		var did []string
		begun := time.Now()
		note := func(what string, do func()) {
			mu.Lock()
			defer mu.Unlock()
			do()
			did = append(did, fmt.Sprintf("%v %s", time.Since(begun).Round(50*time.Millisecond), what))
		}
		m := &Memory{limit: 160}
		m.read = func() usage {
			mu.Lock()
			defer mu.Unlock()
			return usage{live, all, collections}
		}
		m.collect = func() { note("collects", func() { live = alive; collections++ }) }
		use := func(bytes, after uint64) { // as a collection of the runtime's has found
			mu.Lock()
			defer mu.Unlock()
			alive, live, collections = bytes, bytes, collections+after
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Watch(ctx, Relief{
				Changed: func(to Level, used uint64) {
					note(fmt.Sprint([]string{"enough ", "scarce ", "critical "}[to], used), func() {})
				},
				GiveUp: func() { note("gives up", func() { alive -= 20 }) },
			})
		}()
		expect := func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after - time.Since(begun))
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(did, want) {
				t.Errorf("it did %q, want %q", did, want)
			}
			did = nil
		}
		expect(9 * time.Second)
		if m.Scarce() {
			t.Error("scarce")
		}
		use(145, 1)
		expect(20*time.Second, "9.05s scarce 145", "10.05s collects", "12.1s collects", "16.15s collects")
		if !m.Scarce() {
			t.Error("not scarce")
		}
		use(155, 1)
		expect(20*time.Second+200*time.Millisecond, "20.05s critical 155", "20.05s gives up", "20.15s collects", "20.2s scarce 135")
		mu.Lock()
		alive = 100
		mu.Unlock()
		expect(40*time.Second, "28.2s collects", "28.25s enough 100")
		if m.Scarce() {
			t.Error("still scarce")
		}
		mu.Lock()
		all = 190 // garbage
		mu.Unlock()
		expect(40*time.Second+200*time.Millisecond, "40.05s scarce 190")
		mu.Lock()
		all = 100
		mu.Unlock()
		expect(41*time.Second, "40.25s enough 100")
		cancel()
		<-done
	})
}
