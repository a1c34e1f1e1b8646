package manage

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"

	"sallyport/proxy/session"
)

// probe answers /livez and /readyz, which need no credentials: the body is
// "ok", or with 503 why the server is not ready.
func (s *Server) probe(w http.ResponseWriter, r *http.Request, c *call) bool {
	var problem error
	switch strings.Join(c.facts.Path, "/") {
	case "livez":
	case "readyz":
		problem = s.options.Ready()
	default:
		return false
	}
	if !methods(w, r, http.MethodGet, http.MethodHead) {
		return true
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if problem != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = problem.Error()
	}
	_, _ = io.WriteString(w, text+"\n")
	return true
}

// answer does what an allowed call asks for.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *call) {
	path := c.facts.Path
	switch {
	case slices.Equal(path, []string{"metrics"}) && s.options.Metrics != nil:
		if methods(w, r, http.MethodGet, http.MethodHead) {
			s.options.Metrics.ServeHTTP(w, r)
		}
	case slices.Equal(path, []string{"v1", "policy"}):
		if methods(w, r, http.MethodGet, http.MethodHead) {
			reply(w, http.StatusOK, s.options.Policy())
		}
	case slices.Equal(path, []string{"v1", "upstreams"}):
		if methods(w, r, http.MethodGet, http.MethodHead) {
			reply(w, http.StatusOK, map[string]any{"upstreams": s.options.Upstreams()})
		}
	case slices.Equal(path, []string{"v1", "reload"}):
		if methods(w, r, http.MethodPost) {
			s.reload(w, r, c)
		}
	case slices.Equal(path, []string{"v1", "sessions"}):
		if methods(w, r, http.MethodGet, http.MethodHead, http.MethodDelete) {
			s.sessions(w, r, c)
		}
	case len(path) == 3 && slices.Equal(path[:2], []string{"v1", "sessions"}):
		if methods(w, r, http.MethodGet, http.MethodHead, http.MethodDelete) {
			s.session(w, r, c, path[2])
		}
	case slices.Equal(path, []string{"v1", "usage"}):
		if methods(w, r, http.MethodGet, http.MethodHead) {
			s.usage(w, c)
		}
	case slices.Equal(path, []string{"v1", "bans"}):
		if methods(w, r, http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete) {
			s.bans(w, r, c)
		}
	case len(path) == 3 && slices.Equal(path[:2], []string{"v1", "bans"}):
		if methods(w, r, http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete) {
			s.ban(w, r, c, path[2])
		}
	case slices.Equal(path, []string{"v1", "users"}):
		if methods(w, r, http.MethodGet, http.MethodHead, http.MethodPut) {
			s.users(w, r, c)
		}
	case len(path) == 3 && slices.Equal(path[:2], []string{"v1", "users"}):
		if methods(w, r, http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete) {
			s.user(w, r, c, path[2])
		}
	default:
		problem(w, http.StatusNotFound, "there is nothing at this path", "")
	}
}

// sessions lists the open sessions, or cuts them all and says how many it were.
func (s *Server) sessions(w http.ResponseWriter, r *http.Request, c *call) {
	open := s.options.Sessions.List()
	if r.Method != http.MethodDelete {
		reply(w, http.StatusOK, map[string]any{"sessions": open})
		return
	}
	count := 0
	for _, one := range open {
		if s.options.Sessions.Cut(one.ID, c.cut()) {
			count++
		}
	}
	reply(w, http.StatusOK, map[string]any{"cut": count})
}

// session shows one session, or cuts it.
func (s *Server) session(w http.ResponseWriter, r *http.Request, c *call, id string) {
	if r.Method == http.MethodDelete {
		if s.options.Sessions.Cut(id, c.cut()) {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	} else if one, ok := s.options.Sessions.Get(id); ok {
		reply(w, http.StatusOK, one.Snapshot())
		return
	}
	problem(w, http.StatusNotFound, "there is no such session", "")
}

// cut is why the sessions end that this call cuts.
func (c *call) cut() session.ErrCut {
	return session.ErrCut{Reason: "by " + c.caller()}
}

// caller is who calls, in words.
func (c *call) caller() string {
	if c.facts.Token.Name != "" {
		return "the management API, token " + c.facts.Token.Name
	}
	return "the management API"
}

// reload reads configuration and policy again, to its end even when the caller
// goes away. What is wrong with them is told to the caller.
func (s *Server) reload(w http.ResponseWriter, r *http.Request, c *call) {
	if err := s.options.Reload(context.WithoutCancel(r.Context()), c.caller()); err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error(), "")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// methods refuses all methods but these.
func methods(w http.ResponseWriter, r *http.Request, allowed ...string) bool {
	if slices.Contains(allowed, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	problem(w, http.StatusMethodNotAllowed, "this path does not take that method", "")
	return false
}

func problem(w http.ResponseWriter, status int, text, decision string) {
	reply(w, status, struct {
		Error    string `json:"error"`
		Decision string `json:"decision_id,omitempty"`
	}{text, decision})
}

// reply encodes first, so that a value that cannot be encoded is an error of
// ours and not half an answer.
func reply(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // guard answers it
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // the caller may be gone
}
