package manage

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
)

// guard keeps away what no policy should have to think of. A page of another
// web site can make its visitor's browser call this address: such a request is
// refused when it could change something, the answers to others cannot be read,
// since no CORS header is ever sent, and a name that was made to point here (DNS
// rebinding) is not one of ours.
func (s *Server) guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(writer http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: writer}
		defer s.recovered(w, r)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, mostOf(r))
		if !s.ours(r.Host) {
			problem(w, http.StatusMisdirectedRequest, "the Host header names neither this address, nor localhost, nor an IP address", "")
			return
		}
		if err := crossOrigin.Check(r); err != nil {
			problem(w, http.StatusForbidden, "requests from other web sites are refused", "")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// mostOf is how many bytes a request's body may have.
func mostOf(r *http.Request) int64 {
	switch {
	case r.Method == http.MethodPut && r.URL.Path == "/v1/bans":
		return maxList
	case r.Method == http.MethodPut && r.URL.Path == "/v1/users":
		return maxImport
	}
	return maxBody
}

// ours tells whether a Host header names this server in a way that nobody
// else's DNS can: by an IP address, as localhost, or as it is configured. No
// browser leaves it out, but some probes do.
func (s *Server) ours(host string) bool {
	name := hostOf(host)
	if name == "" {
		return host == ""
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return strings.EqualFold(name, "localhost") || strings.EqualFold(name, hostOf(s.options.Address))
}

// hostOf strips the port, and the brackets of an IPv6 address.
func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

// recovered keeps a panic of ours from the caller, and from the other calls.
func (s *Server) recovered(w *response, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler {
		panic(cause)
	}
	s.options.Log.Error("management call failed", "cause", fmt.Sprint(cause), "method", r.Method, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // the answer is under way: all that is left is to break it off
	}
	problem(w, http.StatusInternalServerError, "internal error", "")
}

// response remembers the status that was sent.
type response struct {
	http.ResponseWriter
	status int // 0 until something was
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
