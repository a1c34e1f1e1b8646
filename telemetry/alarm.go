package telemetry

import (
	"sync"
	"time"
)

// The same alarm is logged at most once in alarmPause, and maxAlarms different
// ones are told apart: beyond that they share one for each message.
const (
	alarmPause = 10 * time.Second
	maxAlarms  = 256
)

// alarm is what makes two alarms the same.
type alarm struct{ message, stage, cause string }

// alarms remembers what was logged just now. The zero value is ready.
type alarms struct {
	mu     sync.Mutex
	silent map[alarm]*silence
}

type silence struct {
	until      time.Time
	suppressed int
}

// ring tells whether the alarm is to be logged now, and how many were not since
// it was last logged.
func (a *alarms) ring(which alarm, now time.Time) (suppressed int, due bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.silent[which]
	if !ok && len(a.silent) >= maxAlarms {
		for old, s := range a.silent {
			if !now.Before(s.until) {
				delete(a.silent, old)
			}
		}
		if len(a.silent) >= maxAlarms {
			which = alarm{message: which.message}
			s, ok = a.silent[which]
		}
	}
	if !ok {
		if a.silent == nil {
			a.silent = map[alarm]*silence{}
		}
		a.silent[which] = &silence{until: now.Add(alarmPause)}
		return 0, true
	}
	if now.Before(s.until) {
		s.suppressed++
		return 0, false
	}
	suppressed = s.suppressed
	*s = silence{until: now.Add(alarmPause)}
	return suppressed, true
}
