package relay

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A flow of messages is not idle while it is paused, and its time goes on.
func TestPause(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits Limits
		pause  time.Duration
		want   Cause
		after  time.Duration // at least; a look later at most
	}{
		{"idle", Limits{Idle: 8 * time.Second}, 0, IdleTimeout, 8 * time.Second},
		{"paused", Limits{Idle: 8 * time.Second}, time.Minute, IdleTimeout, 68 * time.Second},
		{"expired", Limits{Idle: 8 * time.Second, Until: time.Date(2000, 1, 1, 0, 0, 30, 0, time.UTC)}, time.Minute, Expired, 30 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				_, inside := net.Pipe()
				_, outside := net.Pipe()
				var n Counters
				f := Join(inside, outside, nil, test.limits, &n)
				f.Open(context.Background())
				defer f.Close()
				if test.pause > 0 {
					f.Pause()
					time.AfterFunc(test.pause, f.Resume)
				}
				inside.Read(make([]byte, 1)) // until the flow ends it
				cause, err, over := f.Over()
				if took := time.Since(began); cause != test.want || err != nil || !over || took < test.after || took > test.after+time.Second {
					t.Errorf("over is %v, %v, %t after %v", cause, err, over, took)
				}
			})
		})
	}
}

// A flow goes on with what its counters have counted.
func TestBytesBefore(t *testing.T) {
	client, inside := net.Pipe()
	_, outside := net.Pipe()
	var n Counters
	n.Up.Store(90)
	f := Join(inside, outside, nil, Limits{Bytes: 100}, &n)
	f.Open(context.Background())
	defer f.Close()
	got := make(chan int, 1)
	go func() {
		b, _ := io.ReadAll(client)
		got <- len(b)
	}()
	if err := f.Down(make([]byte, 20)); err == nil {
		t.Error("twenty bytes go where ten are left")
	}
	inside.Close()
	if cause, _, over := f.Over(); !over || cause != BytesSpent || <-got != 10 {
		t.Errorf("over is %v, %t, and %v are counted", cause, over, n.Down.Load())
	}
}
