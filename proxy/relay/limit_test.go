package relay

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// flowing is a flow over pipes that runs, and whose limits can be changed.
type flowing struct {
	*Flow
	n              Counters
	client, target net.Conn
	ended          chan end
}

func startFlow(limits Limits) *flowing {
	f := &flowing{ended: make(chan end, 1)}
	var inside, outside net.Conn
	f.client, inside = net.Pipe()
	f.target, outside = net.Pipe()
	f.Flow = Join(inside, outside, nil, limits, &f.n)
	go func() {
		cause, err := f.Run(context.Background())
		inside.Close()
		outside.Close()
		f.ended <- end{cause, err}
	}()
	return f
}

func (f *flowing) close() {
	f.client.Close()
	f.target.Close()
	<-f.ended
}

// Time limits that change end a flow when the new ones say, and a limit that is
// lifted does not end it at all.
func TestLimitOfTime(t *testing.T) {
	hour := time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC) // a bubble begins at midnight
	for _, test := range []struct {
		name          string
		first, second Limits
		want          Cause
		after         time.Duration
	}{
		{"idle comes", Limits{}, Limits{Idle: time.Minute}, IdleTimeout, time.Minute},
		{"idle shrinks", Limits{Idle: time.Hour}, Limits{Idle: time.Minute}, IdleTimeout, time.Minute},
		{"idle grows", Limits{Idle: time.Minute}, Limits{Idle: time.Hour}, IdleTimeout, time.Hour},
		{"until comes", Limits{}, Limits{Until: hour}, Expired, time.Hour},
		{"until comes to idle", Limits{Idle: 24 * time.Hour}, Limits{Idle: 24 * time.Hour, Until: hour}, Expired, time.Hour},
		{"until is over", Limits{Until: hour}, Limits{Until: hour.Add(-2 * time.Hour)}, Expired, 30 * time.Second},
		{"until is lifted", Limits{Until: hour}, Limits{Idle: 2 * time.Hour}, IdleTimeout, 2 * time.Hour},
		{"all are lifted", Limits{Until: hour, Idle: time.Minute}, Limits{}, Finished, 24 * time.Hour},
		{"they come back", Limits{}, Limits{Until: hour}, Expired, time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startFlow(test.first)
				start := time.Now()
				time.Sleep(30 * time.Second)
				if test.name == "they come back" {
					f.Limit(Limits{Idle: time.Minute})
					f.Limit(Limits{})
				}
				f.Limit(test.second)
				select {
				case e := <-f.ended:
					took := time.Since(start)
					if e.cause != test.want || took < test.after || took > test.after*9/8+time.Minute {
						t.Errorf("ended with %v after %v, want %v after %v", e, took, test.want, test.after)
					}
					f.ended <- e
				case <-time.After(24 * time.Hour):
					if test.want != Finished {
						t.Error("it does not end")
					}
				}
				f.close()
			})
		})
	}
}

// Bytes counts from the flow's beginning, whichever limit it has.
func TestLimitOfBytes(t *testing.T) {
	for _, test := range []struct {
		name           string
		first, second  int64
		moved, further int // of those that are sent afterwards, 10
	}{
		{"comes", 0, 7, 5, 2},
		{"shrinks", 100, 7, 5, 2},
		{"grows", 6, 9, 5, 4},
		{"is spent already", 100, 3, 5, 0},
		{"is lifted", 6, 0, 5, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startFlow(Limits{Bytes: test.first})
				exchange(t, f.client, f.target, make([]byte, test.moved))
				f.Limit(Limits{Bytes: test.second})
				go f.client.Write(make([]byte, 10))
				got := 0
				if test.further > 0 {
					got, _ = io.ReadFull(f.target, make([]byte, test.further))
				}
				if got != test.further {
					t.Errorf("%d more bytes came, want %d", got, test.further)
				}
				if test.second > 0 {
					if e := <-f.ended; e.cause != BytesSpent {
						t.Errorf("ended with %v", e)
					} else {
						f.ended <- e
					}
				}
				f.close()
				if got := f.n.Up.Load(); got != int64(test.moved+test.further) {
					t.Errorf("%d bytes are counted", got)
				}
			})
		})
	}
}

// A pace that comes slows down, and one that goes lets loose.
func TestLimitOfPace(t *testing.T) {
	for _, test := range []struct {
		name          string
		first, second int64
		least, most   time.Duration // for 10,000 bytes
	}{
		{"comes", 0, 1000, 9 * time.Second, 11 * time.Second},
		{"slows", 1 << 30, 1000, 9 * time.Second, 11 * time.Second},
		{"goes", 1000, 0, 0, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startFlow(Limits{Up: test.first})
				exchange(t, f.client, f.target, make([]byte, 100))
				f.Limit(Limits{Up: test.second})
				// The read that went on under the old one. It may be for less than this, while
				// exchange reads nothing before all is written, and a pipe holds nothing.
				go f.client.Write(make([]byte, 100))
				io.ReadFull(f.target, make([]byte, 100))
				begun := time.Now()
				go f.client.Write(make([]byte, 10_000))
				io.ReadFull(f.target, make([]byte, 10_000))
				if took := time.Since(begun); took < test.least || took > test.most {
					t.Errorf("it took %v", took)
				}
				f.close()
			})
		})
	}
}

// Limits may change while bytes move between sockets, by buffer and by pipe, and
// none of the bytes is lost.
func TestLimitWhileBytesMove(t *testing.T) {
	client, inside, outside, target := between(t)
	var n Counters
	f := Join(inside, outside, nil, Limits{}, &n)
	ended := make(chan Cause, 1)
	go func() {
		cause, _ := f.Run(context.Background())
		inside.Close()
		outside.Close()
		ended <- cause
	}()
	var all sync.WaitGroup
	stop := make(chan struct{})
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			f.Limit([]Limits{
				{}, {Up: 1 << 30, Down: 1 << 30}, {Bytes: 1 << 40, Idle: time.Hour}, {Up: 1 << 29, Until: time.Now().Add(time.Hour)},
			}[i%4])
		}
	})
	go func() { client.Write(noise(8 << 20)); client.CloseWrite() }()
	go func() { target.Write(noise(8<<20 + 1)); target.CloseWrite() }()
	var sides sync.WaitGroup
	sides.Go(func() { same(t, readAll(t, target), noise(8<<20)) })
	sides.Go(func() { same(t, readAll(t, client), noise(8<<20+1)) })
	sides.Wait()
	if cause := <-ended; cause != Finished {
		t.Errorf("ended with %v", cause)
	}
	close(stop)
	all.Wait()
}
