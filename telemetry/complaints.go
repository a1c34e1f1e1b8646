package telemetry

import (
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
)

// LogComplaints has the OpenTelemetry libraries complain to the log, of a
// collector that is away or a setting that they cannot read; the same complaint
// once in ten seconds. Else they would write to standard error as they like,
// values of settings and so the tokens in OTEL_EXPORTER_OTLP_HEADERS included.
//
// The libraries keep this for the process, so it is called once, by the program.
// The log should not be one that is exported: a collector that is away would
// have its own absence in its queue.
func LogComplaints(log *slog.Logger, environment []string) {
	c := &complaints{log: log, secrets: newSecrets(environment)}
	otel.SetErrorHandler(c)
	otel.SetLogger(logr.New(c))
}

type complaints struct {
	log     *slog.Logger
	secrets secrets
	alarms  alarms
}

func (c *complaints) complain(what string) {
	what = clip(c.secrets.redact(what))
	// Numbers, such as that of the port at our end, make no other complaint.
	same := strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, what)
	if suppressed, due := c.alarms.ring(alarm{message: "telemetry", cause: same}, time.Now()); due {
		c.log.Warn("telemetry", "problem", what, "suppressed", suppressed)
	}
}

// Handle is for errors at work.
func (c *complaints) Handle(err error) { c.complain(err.Error()) }

// The rest is the libraries' own log. Its keys and values are left out: among
// them are settings as they were written.
func (c *complaints) Init(logr.RuntimeInfo)             {}
func (c *complaints) Enabled(level int) bool            { return level <= 1 } // warnings
func (c *complaints) Info(_ int, what string, _ ...any) { c.complain(what) }
func (c *complaints) WithValues(...any) logr.LogSink    { return c }
func (c *complaints) WithName(string) logr.LogSink      { return c }

func (c *complaints) Error(err error, what string, _ ...any) {
	if err != nil {
		what += ": " + err.Error()
	}
	c.complain(what)
}

// secrets are texts that no log may have.
type secrets []string

// minSecret is the length from which on a text may be one: what is shorter
// would be found in any other word.
const minSecret = 4

// newSecrets are those in the variables of the exporters: what their headers
// hold, and user and query of their endpoints.
func newSecrets(environment []string) secrets {
	var out secrets
	add := func(text string) {
		if text = strings.TrimSpace(text); len(text) >= minSecret {
			out = append(out, text)
		}
	}
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case !strings.HasPrefix(name, "OTEL_EXPORTER_"):
		case strings.HasSuffix(name, "_HEADERS"):
			for header := range strings.SplitSeq(value, ",") {
				_, text, found := strings.Cut(header, "=")
				if !found {
					text = header
				}
				add(text)
				if decoded, err := url.PathUnescape(text); err == nil {
					add(decoded)
				}
			}
		case strings.HasSuffix(name, "_ENDPOINT"):
			if before, _, found := strings.Cut(value, "@"); found {
				_, user, _ := strings.Cut(before, "://")
				add(user)
				if _, password, found := strings.Cut(user, ":"); found {
					add(password)
				}
			}
			if _, query, found := strings.Cut(value, "?"); found {
				add(query)
			}
		}
	}
	// The longest first, since one may be part of another.
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(out)
}

func (s secrets) redact(text string) string {
	for _, secret := range s {
		text = strings.ReplaceAll(text, secret, "[redacted]")
	}
	return text
}
