package distribute

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/plugins/discovery"
)

// opaLog is where OPA's plugins log to. It leaves out what they have to say when
// all is well, what they say again at each attempt, and what we tell ourselves.
type opaLog struct {
	slog.Handler
	told    *told
	secrets []string                 // that OPA's messages may repeat
	copied  func(bundle, why string) // told of a copy on disk that is refused
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
	if bundle, why, ok := copyOf(&r); ok { // OPA tells nobody else of it, since it is no attempt
		l.copied(bundle, hide(l.secrets, why))
		return nil
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

// copyOf reads a message that says why the copy on disk of a bundle, or of what
// discovery brought, is refused.
func copyOf(r *slog.Record) (bundle, why string, ok bool) {
	if why, ok := strings.CutPrefix(r.Message, "Failed to load discovery bundle from disk: "); ok {
		return discovery.Name, why, true
	}
	why, ok = strings.CutPrefix(r.Message, "Failed to load bundle from disk: ")
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "name" {
			bundle = a.Value.String()
		}
		return true
	})
	return bundle, why, ok && bundle != ""
}

func (l *opaLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *l
	with.Handler = l.Handler.WithAttrs(attrs)
	return &with
}

func (l *opaLog) WithGroup(name string) slog.Handler {
	with := *l
	with.Handler = l.Handler.WithGroup(name)
	return &with
}
