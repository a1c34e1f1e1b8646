package distribute

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// What one answer of a service may be.
const (
	maxPacked = maxBytes / 2 // of a bundle
	maxAnswer = 4 << 20      // of what is none
	maxWhole  = 10 * time.Minute
)

// bounded stands between OPA and a service. To OPA it is the service's means of
// authentication, which is where a client can be had a say in: it asks the real
// one, and reads every answer whole and judges it before OPA sees any of it.
type bounded struct {
	name   string
	deltas bool          // delta bundles are welcome
	whole  time.Duration // for one answer
	seen   func([]byte)  // as in guard

	mu     sync.Mutex
	real   rest.HTTPAuthPlugin
	host   string       // the service's own
	latest *http.Client // for its connections to be closed
}

// Start, Stop and Reconfigure make it a plugin, since OPA keeps it among those.
func (b *bounded) Start(context.Context) error { return nil }

// Stop closes the connections that are idle.
func (b *bounded) Stop(context.Context) { b.replace(nil) }

// Reconfigure does nothing: another configuration has another one of these.
func (b *bounded) Reconfigure(context.Context, any) {}

// NewClient is the real one's client with bounds. OPA asks for one at each pull
// from a registry.
func (b *bounded) NewClient(c rest.Config) (*http.Client, error) {
	c.Credentials.Plugin = nil
	real, err := c.AuthPlugin(nil)
	if err != nil {
		return nil, err
	}
	client, err := real.NewClient(c)
	if err != nil {
		return nil, err
	}
	service, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("the service's URL is none")
	}
	base := client.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	// Without a time-out for the headers this is a long poll.
	idle := 10 * time.Second
	header := time.Duration(0)
	if seconds := c.ResponseHeaderTimeoutSeconds; seconds != nil && *seconds > 0 {
		idle = time.Duration(*seconds) * time.Second
		header = idle
	}
	client.Transport = &boundedTransport{base: base, host: service.Host, deltas: b.deltas, header: header, idle: idle, whole: b.whole, seen: b.seen}
	b.mu.Lock()
	b.real, b.host = real, service.Host
	b.mu.Unlock()
	b.replace(client)
	return client, nil
}

func (b *bounded) replace(client *http.Client) {
	b.mu.Lock()
	before := b.latest
	b.latest = client
	b.mu.Unlock()
	if before != nil {
		before.CloseIdleConnections()
	}
}

// Prepare puts the service's credentials on a request, but not on one that the
// service has sent elsewhere.
func (b *bounded) Prepare(r *http.Request) error {
	b.mu.Lock()
	real, host := b.real, b.host
	b.mu.Unlock()
	if r.Response != nil && r.URL.Host != host {
		return nil
	}
	return real.Prepare(r)
}

// boundedTransport answers only with what has been judged.
type boundedTransport struct {
	base   http.RoundTripper
	host   string
	deltas bool
	header time.Duration // until the headers; 0: the request says how long it polls
	idle   time.Duration // between two bytes
	whole  time.Duration // for the body
	seen   func([]byte)  // as in guard

	mu      sync.Mutex
	refused [sha256.Size]byte // the latest bundle that was, and why
	why     error
}

func (t *boundedTransport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip returns when the whole answer is there and judged, or is late.
func (t *boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	r = r.Clone(ctx)
	if err := t.redirected(r); err != nil {
		return nil, err
	}
	wait := t.header
	if wait == 0 {
		wait = t.idle + polls(r)
	}
	if r.Body != nil && r.Body != http.NoBody {
		wait += t.whole // what is sent takes its time, too
	}
	late := time.AfterFunc(wait, func() { cancel(fmt.Errorf("no answer within %v", wait)) })
	defer late.Stop()
	answer, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, reason(ctx, err)
	}
	if r.Method == http.MethodHead {
		return answer, nil
	}
	defer answer.Body.Close()
	late.Stop()
	stalls := time.AfterFunc(t.idle, func() { cancel(fmt.Errorf("the answer stalls: nothing came for %v", t.idle)) })
	defer stalls.Stop()
	takes := time.AfterFunc(t.whole, func() { cancel(fmt.Errorf("the answer takes longer than %v", t.whole)) })
	defer takes.Stop()

	wanted := r.Method == http.MethodGet && answer.StatusCode == http.StatusOK
	body, err := t.read(answer.Body, wanted, func() { stalls.Reset(t.idle) })
	if err != nil {
		return nil, reason(ctx, err)
	}
	if wanted && isGzip(body) {
		if err := t.judge(body); err != nil {
			return nil, err
		}
		if t.seen != nil {
			t.seen(body)
		}
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	answer.ContentLength = int64(len(body))
	return answer, nil
}

// reason is why a request ended: what ended it, if anything here did.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// redirected takes what the service alone is to know off a request that it has
// sent elsewhere, and refuses to go where others could listen.
func (t *boundedTransport) redirected(r *http.Request) error {
	if r.Response == nil {
		return nil
	}
	if from := r.Response.Request; from != nil && from.URL.Scheme == "https" && r.URL.Scheme != "https" {
		return errors.New("the redirect leaves https")
	}
	if r.URL.Host == t.host {
		return nil
	}
	for name := range r.Header {
		switch name {
		case "Accept", "If-None-Match", "Prefer", "User-Agent":
		default:
			r.Header.Del(name)
		}
	}
	return nil
}

// polls is how long a request asks the server to wait for news.
func polls(r *http.Request) time.Duration {
	for preference := range strings.SplitSeq(r.Header.Get("Prefer"), ";") {
		if text, found := strings.CutPrefix(strings.TrimSpace(preference), "wait="); found {
			if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
				return time.Duration(seconds) * time.Second
			}
		}
	}
	return 0
}

// read reads an answer. Of one that is not wanted it leaves the rest. waiting is
// called before each wait for more.
func (t *boundedTransport) read(from io.Reader, wanted bool, waiting func()) ([]byte, error) {
	var body bytes.Buffer
	chunk := make([]byte, 32<<10)
	for {
		waiting() // from now on: what is done here with what has come is no silence of the server's
		n, err := from.Read(chunk)
		body.Write(chunk[:n])
		switch bundle := isGzip(body.Bytes()); {
		case !bundle && body.Len() > maxAnswer && !wanted:
			return body.Bytes()[:maxAnswer], nil
		case !bundle && body.Len() > maxAnswer:
			return nil, fmt.Errorf("the answer is no bundle, and more than %d MiB", maxAnswer>>20)
		case body.Len() > maxPacked:
			return nil, fmt.Errorf("the answer is more than the %d MiB that a bundle may have", maxPacked>>20)
		}
		switch {
		case errors.Is(err, io.EOF):
			return body.Bytes(), nil
		case err != nil:
			return nil, err
		}
	}
}

func isGzip(body []byte) bool { return bytes.HasPrefix(body, []byte{0x1f, 0x8b}) }

// judge is inspect, which a bundle that is sent again and again has to pass once.
func (t *boundedTransport) judge(body []byte) error {
	sum := sha256.Sum256(body)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.why != nil && sum == t.refused {
		return t.why
	}
	err := inspect("the bundle", bytes.NewReader(body), t.deltas)
	if err != nil {
		t.refused, t.why = sum, err
	}
	return err
}
