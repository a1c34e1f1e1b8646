package manage

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"sallyport/proxy/guard"
)

// Bans are those in force.
type Bans interface {
	Bans() []guard.Ban
	Ban(of guard.Subject, long time.Duration, cause string, anew bool) error
	Lift(of guard.Subject) bool
}

// ban is one as it is shown.
type ban struct {
	Of      string     `json:"of"`    // a prefix, identity:NAME, claimed:NAME or uid:NUMBER
	Since   time.Time  `json:"since"` // of the first, where it was set again
	Until   *time.Time `json:"until"` // null: until it is lifted
	Cause   string     `json:"cause"`
	Refused int64      `json:"refused"` // connections and requests
}

func shown(b *guard.Ban) ban {
	s := ban{Of: b.Of.String(), Since: b.Since.UTC(), Cause: b.Cause, Refused: b.Refused}
	if !b.Until.IsZero() {
		until := b.Until.UTC()
		s.Until = &until
	}
	return s
}

func (s *Server) bans(w http.ResponseWriter) {
	list := []ban{}
	for _, b := range s.options.Bans.Bans() {
		list = append(list, shown(&b))
	}
	reply(w, http.StatusOK, map[string]any{"bans": list})
}

// ban shows one ban, sets it, or lifts it. The body of a PUT is
//
//	{"for": "1h", "reason": "…"}
//
// where for may be missing: then it is until the ban is lifted. It replaces what
// is in force.
func (s *Server) ban(w http.ResponseWriter, r *http.Request, c *call, text string) {
	of, err := guard.ParseSubject(text)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	switch r.Method {
	case http.MethodDelete:
		if !s.options.Bans.Lift(of) {
			problem(w, http.StatusNotFound, "there is no such ban", "")
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	case http.MethodPut:
		long, reason, err := readBan(r.Body)
		if err != nil {
			problem(w, http.StatusBadRequest, err.Error(), "")
			return
		}
		cause := c.caller()
		if reason != "" {
			cause += ": " + reason
		}
		if err := s.options.Bans.Ban(of, long, cause, true); err != nil {
			problem(w, http.StatusConflict, err.Error(), "")
			return
		}
	}
	for _, b := range s.options.Bans.Bans() {
		if b.Of == of {
			reply(w, http.StatusOK, shown(&b))
			return
		}
	}
	problem(w, http.StatusNotFound, "there is no such ban", "")
}

// readBan reads how long a ban is to last, 0 for ever, and why.
func readBan(body io.Reader) (time.Duration, string, error) {
	var asked struct {
		For    *string `json:"for"`
		Reason string  `json:"reason"`
	}
	in := json.NewDecoder(body)
	in.DisallowUnknownFields()
	if err := in.Decode(&asked); err != nil && !errors.Is(err, io.EOF) {
		return 0, "", errors.New(`the body is a JSON object such as {"for": "1h", "reason": "…"}`)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return 0, "", errors.New("the body is one JSON object")
	}
	if asked.For == nil {
		return 0, clip(asked.Reason), nil
	}
	long, err := time.ParseDuration(*asked.For)
	if err != nil || long <= 0 {
		return 0, "", errors.New(`for is a duration such as "15m"`)
	}
	return long, clip(asked.Reason), nil
}
