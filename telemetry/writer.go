package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxPending bounds the lines that wait for their turn, in bytes. As many may
// be on their way out.
const maxPending = 4 << 20

// keptBuffer is the largest buffer that is kept for the next batch.
const keptBuffer = 256 << 10

// NewLogger returns a logger that writes to out through a [Writer], which the
// caller closes. The format is "text", or else JSON.
func NewLogger(level slog.Leveler, format string, out io.Writer) (*slog.Logger, *Writer) {
	handler := func(to io.Writer, level slog.Leveler) slog.Handler {
		if format == "text" {
			return traced{slog.NewTextHandler(to, &slog.HandlerOptions{Level: level, ReplaceAttr: separate})}
		}
		return traced{slog.NewJSONHandler(to, &slog.HandlerOptions{Level: level})}
	}
	w := newWriter(out, func(lost int64) []byte {
		var line bytes.Buffer
		slog.New(handler(&line, slog.LevelWarn)).Warn("log lines dropped", "count", lost)
		return line.Bytes()
	})
	return slog.New(handler(w, level)), w
}

// separate keeps the members of a list apart, which as text have only spaces between
// them.
func separate(_ []string, a slog.Attr) slog.Attr {
	if list, ok := a.Value.Any().([]string); ok {
		a.Value = slog.StringValue(strings.Join(list, "; "))
	}
	return a
}

// Writer passes lines on from a goroutine of its own, in batches, so that
// whoever writes never waits for the disk or the pipe behind it. Lines that find
// no room, or whose write fails, are dropped and counted; a logger says so in
// the log once it moves again.
//
// A process whose standard error is a pipe that nobody reads is killed by
// SIGPIPE at the first write, unless it asks for that signal.
type Writer struct {
	out     io.Writer
	notice  func(lost int64) []byte // nil: none
	dropped atomic.Int64
	closing chan struct{} // closed when Close is called
	done    chan struct{} // closed when all that could be written is

	mu      sync.Mutex
	more    sync.Cond // signalled when pending or closed change
	pending []byte    // whole lines
	closed  bool
}

// NewWriter starts a writer of lines that are not a log, such as decision-log
// events: drops are counted and nothing is added.
func NewWriter(out io.Writer) *Writer { return newWriter(out, nil) }

func newWriter(out io.Writer, notice func(int64) []byte) *Writer {
	w := &Writer{out: out, notice: notice, closing: make(chan struct{}), done: make(chan struct{})}
	w.more.L = &w.mu
	go w.run()
	return w
}

// Write takes one or more whole lines, of text or JSON as slog writes them. It never
// waits and never fails.
func (w *Writer) Write(lines []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.pending)+len(lines) > maxPending {
		w.dropped.Add(count(lines))
		return len(lines), nil
	}
	w.pending = appendVisible(w.pending, lines)
	w.more.Signal()
	return len(lines), nil
}

// Dropped returns how many lines were lost since the start.
func (w *Writer) Dropped() int64 { return w.dropped.Load() }

// Close waits until everything that was written before it is passed on. When
// ctx ends first it gives up, and the lines that are left may be lost; the
// goroutine then ends with the write that it is stuck in.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.closing)
	}
	w.more.Signal()
	w.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("log: flush: %w", context.Cause(ctx))
	}
}

func (w *Writer) run() {
	defer close(w.done)
	var (
		batch    []byte
		reported int64 // of the dropped lines
		torn     bool  // the last write ended within a line
	)
	for {
		var ok bool
		if batch, ok = w.take(batch); !ok {
			return
		}
		if torn {
			if _, err := w.out.Write([]byte{'\n'}); err != nil {
				w.dropped.Add(count(batch))
				continue
			}
			torn = false
		}
		n, err := w.out.Write(batch)
		if err != nil {
			torn = n > 0 && batch[n-1] != '\n'
			w.dropped.Add(count(batch[n:]))
			continue
		}
		if lost := w.dropped.Load(); lost > reported && w.notice != nil {
			if _, err := w.out.Write(w.notice(lost - reported)); err == nil {
				reported = lost
			}
		}
	}
}

// gather is how long the first line waits for others: waking for each line
// costs more than writing it.
const gather = 10 * time.Millisecond

// take waits for lines and leaves the buffer of the last batch in their place.
// It reports false when the writer is closed and nothing is left.
func (w *Writer) take(last []byte) ([]byte, bool) {
	if cap(last) > keptBuffer {
		last = nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.pending) == 0 && !w.closed {
		w.more.Wait()
	}
	if !w.closed {
		w.mu.Unlock()
		others := time.NewTimer(gather)
		select {
		case <-others.C:
		case <-w.closing:
			others.Stop()
		}
		w.mu.Lock()
	}
	batch := w.pending
	w.pending = last[:0]
	return batch, len(batch) > 0
}

// appendVisible appends lines whose control characters of C1, U+0080 to U+009F, are
// written as JSON writes others, such as \u009b: slog leaves them as they are in JSON,
// and that one begins a terminal's command as ESC [ does (ECMA-48, section 5.3). In
// JSON they stand in strings only, and text has none.
func appendVisible(to, lines []byte) []byte {
	const c1, hexadecimal = 0xc2, "0123456789abcdef" // the first byte of theirs in UTF-8, and of those up to U+00BF
	for {
		at := bytes.IndexByte(lines, c1)
		if at < 0 || at+1 == len(lines) {
			return append(to, lines...)
		}
		to = append(to, lines[:at]...)
		if second := lines[at+1]; second >= 0x80 && second <= 0x9f {
			to = append(to, '\\', 'u', '0', '0', hexadecimal[second>>4], hexadecimal[second&0xf])
		} else {
			to = append(to, c1, second)
		}
		lines = lines[at+2:]
	}
}

func count(lines []byte) int64 { return int64(bytes.Count(lines, []byte{'\n'})) }
