package distribute

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

// opaLog is where OPA's plugins log to. It leaves out what they have to say when
// all is well, what they say again at each attempt, and what we tell ourselves.
type opaLog struct {
	slog.Handler
	told    *told
	secrets []string // that OPA's messages may repeat
}

// told is what has been told already.
type told struct {
	attempts atomic.Bool // attempts to bring a bundle are told of by [Manager.attempted]
	mu       sync.Mutex
	last     string
}

func (l *opaLog) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && l.Handler.Enabled(ctx, level)
}

func (l *opaLog) Handle(ctx context.Context, r slog.Record) error {
	for _, attempt := range []string{"Bundle load failed: ", "Bundle activation failed: ", "Bundle download failed: "} {
		if strings.HasPrefix(r.Message, attempt) && l.told.attempts.Load() {
			return nil
		}
	}
	message := hide(l.secrets, r.Message)
	if message != r.Message {
		hidden := slog.NewRecord(r.Time, r.Level, message, r.PC)
		r.Attrs(func(a slog.Attr) bool {
			hidden.AddAttrs(a)
			return true
		})
		r = hidden
	}
	l.told.mu.Lock()
	again := l.told.last == r.Message
	l.told.last = r.Message
	l.told.mu.Unlock()
	if again {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

func (l *opaLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &opaLog{l.Handler.WithAttrs(attrs), l.told, l.secrets}
}

func (l *opaLog) WithGroup(name string) slog.Handler {
	return &opaLog{l.Handler.WithGroup(name), l.told, l.secrets}
}
