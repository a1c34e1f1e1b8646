package guard

import (
	"context"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// Memory tells when so much of the memory that the process may use is in use that
// nothing new is to begin. What counts is what the last collection has found
// alive, with the stacks and what the runtime needs for itself: garbage is no
// reason to refuse anybody. It looks twenty times a second, whatever comes.
//
// A nil Memory has always enough.
type Memory struct {
	limit   uint64
	level   atomic.Int32
	read    func() usage
	collect func()
}

// Level is how scarce memory is.
type Level int32

// The levels, and from which share of the limit on they are reached. What is
// scarce has to come below three quarters before there is enough again.
const (
	Enough   Level = iota
	Scarce         // seven eighths: nothing new begins
	Critical       // fifteen sixteenths: what has only just begun is given up
)

// usage is what is in use, and how many collections have told so.
type usage struct{ bytes, collections uint64 }

const (
	lookAt = 50 * time.Millisecond

	// Only a collection tells that memory has been given back. When no other comes
	// while it is scarce, one is made after this pause, which doubles up to the longest.
	firstCollection   = time.Second
	longestCollection = 8 * time.Second
	afterRelief       = 100 * time.Millisecond
)

// NewMemory is for a process that may use so many bytes.
func NewMemory(limit int64) *Memory {
	return &Memory{limit: uint64(limit), read: reader(), collect: runtime.GC}
}

// Limit is how many bytes may be used.
func (m *Memory) Limit() uint64 { return m.limit }

// Scarce tells whether nothing new is to begin.
func (m *Memory) Scarce() bool { return m != nil && Level(m.level.Load()) >= Scarce }

// Relief is what is done about a want of memory.
type Relief struct {
	Changed func(to Level, used uint64) // told of each change
	GiveUp  func()                      // gives up what has only just begun, each time that a collection has found too little
}

// Watch looks until ctx ends.
func (m *Memory) Watch(ctx context.Context, r Relief) {
	ticker := time.NewTicker(lookAt)
	defer ticker.Stop()
	var relieved uint64 // the collections by then
	var seen uint64
	pause, due := firstCollection, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, u := time.Now(), m.read()
		was := Level(m.level.Load())
		level := next(was, u.bytes, m.limit)
		if level != was {
			m.level.Store(int32(level))
			r.Changed(level, u.bytes)
		}
		if level == Enough {
			pause, due, seen = firstCollection, now.Add(firstCollection), u.collections
			continue
		}
		if u.collections != seen {
			seen, due = u.collections, now.Add(pause)
		}
		if level == Critical && u.collections != relieved {
			relieved = u.collections
			r.GiveUp()
			due = now.Add(afterRelief)
		}
		if !now.Before(due) {
			m.collect()
			pause = min(2*pause, longestCollection)
			due = time.Now().Add(pause)
		}
	}
}

// next is the level that so much in use makes of another.
func next(was Level, used, limit uint64) Level {
	switch {
	case used >= limit-limit/16:
		return Critical
	case used >= limit-limit/8, was != Enough && used >= limit-limit/4:
		return Scarce
	}
	return Enough
}

// inUse is what is alive, and what memory limits count beside it.
var inUse = [...]string{
	"/gc/heap/live:bytes",
	"/memory/classes/heap/stacks:bytes",
	"/memory/classes/metadata/mcache/inuse:bytes",
	"/memory/classes/metadata/mspan/inuse:bytes",
	"/memory/classes/metadata/other:bytes",
	"/memory/classes/os-stacks:bytes",
	"/memory/classes/other:bytes",
	"/memory/classes/profiling/buckets:bytes",
}

// reader reads what is in use, with room that it uses again.
func reader() func() usage {
	samples := make([]metrics.Sample, len(inUse)+1)
	for i, name := range inUse {
		samples[i].Name = name
	}
	samples[len(inUse)].Name = "/gc/cycles/total:gc-cycles"
	return func() (u usage) {
		metrics.Read(samples)
		for _, s := range samples[:len(inUse)] {
			u.bytes += s.Value.Uint64()
		}
		u.collections = samples[len(inUse)].Value.Uint64()
		return u
	}
}
