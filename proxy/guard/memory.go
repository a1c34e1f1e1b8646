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
// reason to refuse anybody, unless there is so much that collecting does not keep
// up with what comes. It looks twenty times a second, whatever comes.
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

// The levels, and from which share of the limit on they are reached, by what is
// alive and by that with all garbage. What is alive has to come below three
// quarters before there is enough again.
const (
	Enough   Level = iota
	Scarce         // seven eighths, or an eighth more than all: nothing new begins
	Critical       // fifteen sixteenths, or a quarter more than all: what has only just begun is given up
)

// usage is what is alive as the last of so many collections has found, and what is
// in use with all garbage. Both are bytes, and have what is beside the heap.
type usage struct{ alive, all, collections uint64 }

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
		level := max(next(was, u.alive, m.limit), lagging(u.all, m.limit))
		if level != was {
			m.level.Store(int32(level))
			r.Changed(level, max(u.alive, u.all))
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

// next is the level that so much alive makes of another.
func next(was Level, alive, limit uint64) Level {
	switch {
	case alive >= limit-limit/16:
		return Critical
	case alive >= limit-limit/8, was != Enough && alive >= limit-limit/4:
		return Scarce
	}
	return Enough
}

// lagging is the level by what is in use with all garbage. Collections keep it
// below the limit while they can.
func lagging(all, limit uint64) Level {
	switch {
	case all >= limit+limit/4:
		return Critical
	case all >= limit+limit/8:
		return Scarce
	}
	return Enough
}

// The metrics of the runtime that are read: the heap, by the last collection and
// as it is, how many there were, and then what memory limits count beside it.
var names = [...]string{
	"/gc/heap/live:bytes",
	"/memory/classes/heap/objects:bytes",
	"/gc/cycles/total:gc-cycles",
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
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	return func() usage {
		metrics.Read(samples)
		u := usage{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()}
		for _, s := range samples[3:] {
			u.alive += s.Value.Uint64()
			u.all += s.Value.Uint64()
		}
		return u
	}
}
