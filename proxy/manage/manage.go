// Package manage is the management API: JSON over HTTP/1.1, for operators,
// their scripts and Prometheus.
//
// Who may call what is the policy's to say. Every call but the two probes asks
// the stage `manage` with the facts of the call (ask.go), unknown paths as well,
// so that a stranger cannot learn which there are. guard.go has what goes before
// that question and is no policy: protocol hygiene against other web sites,
// oversized requests and our own panics. endpoints.go has the table of what there is
// and what a call does once it is allowed, openapi.go the description of it, bans.go
// and users.go what is done about bans and users, token.go the token that is made
// where none is configured.
//
// An error is answered as
//
//	{"error": "…", "decision_id": "…"}
//
// where decision_id names the policy's decision if one was taken: 401 and 403
// for a denial, 503 for a fault of the policy. The reasons are in the log only.
package manage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"sallyport/policy"
	"sallyport/proxy/secret"
	"sallyport/proxy/session"
)

// Decider answers the question. A decision that it cannot make is a fault.
type Decider interface {
	Decide(ctx context.Context, stage policy.Stage, facts *policy.Facts) policy.Decision
}

// Observer is told of each decision. It must not block.
type Observer interface {
	Decided(ctx context.Context, d *policy.Decision, took time.Duration)
}

// Sessions are the open ones.
type Sessions interface {
	List() []session.Snapshot
	Get(id string) (*session.Session, bool)
	Cut(id string, cause error) bool
}

// Token opens the API for whoever presents it as a bearer token. An empty
// secret opens nothing.
type Token struct {
	Secret secret.String
	Roles  []string // what the policy sees as input.api.token.roles
}

// Options are what the API shows and does. All but Secure and Metrics are required.
// What Policy and Upstreams return is shown as encoding/json takes it.
type Options struct {
	Address   string // as configured, host and port: a Host header may name this host
	Decide    Decider
	Observe   Observer
	Tokens    map[string]Token // by name
	Sessions  Sessions
	Bans      Bans
	Users     Users
	Usage     Usage
	Policy    func() any                                 // what /v1/policy shows
	Upstreams func() any                                 // the list that /v1/upstreams shows
	Ready     func() error                               // nil, or why the server is not ready
	Reload    func(ctx context.Context, by string) error // reads configuration and policy again; by is who asks for it
	Secure    func(net.Listener) net.Listener            // puts TLS above the connections; nil: there is none
	Metrics   http.Handler                               // nil: there is no /metrics
	Log       *slog.Logger
}

// Bounds on what a caller can make us hold, and for how long.
const (
	maxConnections = 256
	maxHeader      = 16 << 10 // bytes, the request line included
	maxBody        = 64 << 10 // bytes
	maxList        = 16 << 20 // bytes of a body that is a list of bans
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = time.Minute
	idleTimeout    = 30 * time.Second
	shutdownGrace  = 5 * time.Second
)

// Server is the management API.
type Server struct {
	options     Options
	endpoints   []endpoint
	description []byte // of them, by OpenAPI
	handler     http.Handler
	importing   chan struct{} // one for each import that goes on
}

// New makes a server; Serve starts it.
func New(o Options) *Server {
	s := &Server{options: o, endpoints: endpoints(&o), importing: make(chan struct{}, 1)}
	s.description = describe(s.endpoints)
	s.handler = s.guard(http.HandlerFunc(s.serve))
	return s
}

// Serve answers calls on l until ctx ends, lets those in flight finish for a few
// seconds, and closes l. The error is nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:                      s.handler,
		ReadHeaderTimeout:            headerTimeout,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true, // it would answer OPTIONS * without a question
		ConnContext:                  withPeer,
		ErrorLog:                     slog.NewLogLogger(s.options.Log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	l = netutil.LimitListener(knowing{l}, maxConnections)
	if s.options.Secure != nil {
		l = s.options.Secure(l)
	}
	err := server.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	server.Close()
	return fmt.Errorf("management: %w", err)
}
