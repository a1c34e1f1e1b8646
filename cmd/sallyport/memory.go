package main

import (
	"time"

	"sallyport/proxy/guard"
)

// tellPause is how long the log is spared a second want of memory after one.
const tellPause = 10 * time.Second

// relief is what is done when memory runs short: the log is told, and handshakes
// are given up.
func (s *server) relief() guard.Relief {
	told := false // that it is scarce
	var last time.Time
	return guard.Relief{
		GiveUp: s.proxy.Relieve,
		Changed: func(to guard.Level, used uint64) {
			limit := s.memory.Limit()
			switch now := time.Now(); {
			case to == guard.Enough && told:
				told = false
				s.log.Info("memory is enough again", "used", used, "limit", limit)
			case to == guard.Enough, told, now.Sub(last) < tellPause:
			default:
				told, last = true, now
				s.log.Warn("memory is scarce: new connections are refused", "used", used, "limit", limit, "sessions", s.sessions.Len())
			}
		},
	}
}
