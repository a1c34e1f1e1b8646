package relay

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"testing"
	"time"
)

// A client that sends its first bytes one at a time is asked about after each, so
// that nothing which is whole is held back, and costs no more memory than one that
// sends them at once.
func TestInspectBitByBit(t *testing.T) {
	const most = 16 << 10
	client, inside, outside, target := between(t)
	defer inside.Close()
	defer outside.Close()
	seen := make(chan int)
	judged := make(chan []byte, 1)
	flow := Join(inside, outside, []byte("early"), Limits{}, new(Counters))
	flow.Inspect(Inspection{
		Most: most + 100, Wait: patience,
		Enough: func(first []byte) bool { seen <- len(first); return len(first) == most },
		Judge:  func(first []byte) error { judged <- first; return nil },
	})
	ended := make(chan struct{})
	go func() { defer close(ended); flow.Run(context.Background()) }()
	for _, c := range []interface{ SetDeadline(time.Time) error }{client, target} {
		c.SetDeadline(time.Now().Add(patience))
	}

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := <-seen
	for sent := len("early"); n < most; sent++ {
		if n != sent {
			t.Fatalf("it is asked about %d bytes after %d", n, sent)
		}
		if _, err := client.Write([]byte{byte(sent)}); err != nil {
			t.Fatal(err)
		}
		n = <-seen
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64*most {
		t.Errorf("%d bytes of memory are taken for %d that come", took, most)
	}

	first := <-judged
	if len(first) != most || string(first[:5]) != "early" {
		t.Errorf("%d bytes are judged: %.10q…", len(first), first)
	}
	for i, b := range first[5:] {
		if b != byte(i+5) {
			t.Fatalf("byte %d is %d", i+5, b)
		}
	}
	got := make([]byte, most)
	if _, err := io.ReadFull(target, got); err != nil || !bytes.Equal(got, first) {
		t.Errorf("something else is delivered than was judged: %v", err)
	}
	client.Close()
	target.Close()
	<-ended
}
