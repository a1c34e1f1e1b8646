package manage

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"sallyport/policy"
	"sallyport/proxy/identity"
	"sallyport/proxy/secret"
)

// call is one request as the policy and the endpoints see it, so that the two
// cannot take it for different ones.
type call struct {
	facts    policy.API
	decision policy.Decision

	edit identity.Edit // of a user that is to be written
	bad  error         // what is wrong with it
}

// serve answers one call: the probes at once, all others as the policy decides.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	c := &call{facts: policy.API{Method: r.Method, Path: segments(r.URL)}}
	e, variable := s.find(c.facts.Path)
	if e != nil && e.open {
		s.answer(w, r, c, e, variable)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		problem(w, http.StatusBadRequest, "the query cannot be read: want NAME=VALUE pairs with & between them, and % only before two hexadecimal digits", "")
		return
	}
	c.facts.Query = query
	c.facts.Token = s.owner(r.Header)
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.facts.Source = policy.APISourceOf(from)
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		c.facts.Certificate = policy.CertificateOf(r.TLS.VerifiedChains[0][0])
	}
	c.facts.Peer = peerOf(r.Context())
	s.edit(r, c)
	// A caller that goes away must not look like a policy that fails.
	s.ask(context.WithoutCancel(r.Context()), c)
	defer s.log(w.(*response), r, c)
	if !c.decision.Allowed() {
		refuse(w, r.Header, c)
		return
	}
	s.answer(w, r, c, e, variable)
}

// ask asks the policy about the call.
func (s *Server) ask(ctx context.Context, c *call) {
	start := time.Now()
	facts := policy.Facts{Time: policy.MinuteOf(start), API: c.facts}
	c.decision = s.options.Decide.Decide(ctx, policy.Manage, &facts)
	s.options.Observe.Decided(ctx, &c.decision, time.Since(start))
}

// refuse tells the caller that the policy refuses: a caller without a valid
// token may try again with one (RFC 9110, section 15.5.2; RFC 6750, section 3).
func refuse(w http.ResponseWriter, header http.Header, c *call) {
	switch {
	case c.decision.Verdict == policy.Fault:
		problem(w, http.StatusServiceUnavailable, "the policy could not decide", c.decision.ID)
	case c.facts.Token.Name != "" || c.facts.Peer.SameUser || c.facts.Certificate.FingerprintSHA256 != "":
		problem(w, http.StatusForbidden, "denied by the policy", c.decision.ID)
	case header.Get("Authorization") != "":
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		problem(w, http.StatusUnauthorized, "the token is not valid", c.decision.ID)
	default:
		w.Header().Set("WWW-Authenticate", "Bearer")
		problem(w, http.StatusUnauthorized, "a token is needed", c.decision.ID)
	}
}

// owner finds whose bearer token the call presents; the zero value when it is
// nobody's. Every token is compared, each in constant time.
func (s *Server) owner(header http.Header) policy.APIToken {
	values := header.Values("Authorization")
	if len(values) != 1 {
		return policy.APIToken{}
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return policy.APIToken{}
	}
	presented := secret.New(strings.Trim(text, " "))
	var owner policy.APIToken
	for _, name := range slices.Sorted(maps.Keys(s.options.Tokens)) {
		if token := s.options.Tokens[name]; token.Secret.Equal(presented) {
			owner = policy.APIToken{Name: name, Roles: token.Roles}
		}
	}
	return owner
}

// segments splits a path as it was sent, and decodes each part by itself, so
// that an encoded slash divides nothing. "/" has none.
func segments(u *url.URL) []string {
	path := strings.TrimPrefix(u.EscapedPath(), "/")
	if path == "" {
		return []string{}
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if decoded, err := url.PathUnescape(part); err == nil {
			parts[i] = decoded
		}
	}
	return parts
}

// log writes one line for a call: of one that changes something or was refused
// always, of one that only reads where debugging is on.
func (s *Server) log(w *response, r *http.Request, c *call) {
	level := slog.LevelInfo
	if c.decision.Allowed() && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		level = slog.LevelDebug
	}
	if !s.options.Log.Enabled(r.Context(), level) {
		return
	}
	s.options.Log.LogAttrs(r.Context(), level, "management call",
		slog.String("http.request.method", r.Method),
		slog.String("url.path", clip(r.URL.Path)),
		slog.Int("http.response.status_code", w.status),
		slog.String("client.address", c.facts.Source.IP.Text()),
		slog.Int64("client.port", c.facts.Source.Port),
		slog.String("certificate", clip(c.facts.Certificate.Name())),
		slog.Int64("peer.uid", c.facts.Peer.UID),
		slog.Int64("peer.pid", c.facts.Peer.PID),
		slog.String("token", c.facts.Token.Name),
		slog.String("verdict", c.decision.Verdict.String()),
		slog.Any("reasons", c.decision.Reasons()),
		slog.String("decision.manage", c.decision.ID),
	)
}

// clip bounds what a caller can put into a line of the log.
func clip(text string) string {
	const most = 1 << 10
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
