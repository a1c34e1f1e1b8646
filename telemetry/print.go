package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// maxPrints bounds the lines that policies print in a second: a print in a rule
// that every request meets must not become the log.
const maxPrints = 50

// Print is what a rule of a policy printed.
type Print struct {
	Stage    string
	Session  string // its id; empty for a management call
	File     string
	Line     int
	Text     string
	Withheld bool // the text may hold a secret, so that there is none
}

// prints counts the lines of a second.
type prints struct {
	mu    sync.Mutex
	since time.Time
	count int
}

// another counts one more line of this second.
func (p *prints) another(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.since) >= time.Second {
		p.since, p.count = now, 0
	}
	p.count++
	return p.count
}

// Printed logs what a rule printed, as "policy print": 50 lines a second at
// most, of which the log is told when it comes to that.
func (t *Telemetry) Printed(p *Print) {
	switch n := t.prints.another(time.Now()); {
	case n == maxPrints+1:
		t.log.Warn("policy prints too much; the rest of this second is dropped", "most", maxPrints)
		return
	case n > maxPrints:
		return
	}
	line := []slog.Attr{
		slog.String("stage", p.Stage), slog.String("file", p.File), slog.Int("line", p.Line),
	}
	if p.Session != "" {
		line = append(line, slog.String("session.id", p.Session))
	}
	if p.Withheld {
		line = append(line, slog.Bool("withheld", true))
	} else {
		line = append(line, slog.String("text", clip(p.Text)))
	}
	t.log.LogAttrs(context.Background(), slog.LevelInfo, "policy print", line...)
}
