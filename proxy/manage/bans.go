package manage

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"sallyport/proxy/guard"
)

// Bans are those in force. What Set and Lift have done lasts, when they return
// without an error; they do all that they are asked for or nothing.
type Bans interface {
	Bans() []guard.Ban
	Set(bans ...guard.Ban) error
	Lift(subjects ...guard.Subject) (int, error)
}

// ban is one as it is shown.
type ban struct {
	Of      string     `json:"of"`    // a prefix, identity:NAME, claimed:NAME or uid:NUMBER, as [guard.Subject.Text] has it
	Since   time.Time  `json:"since"` // of the first, where it was set again
	Until   *time.Time `json:"until"` // null: until it is lifted
	Cause   string     `json:"cause"`
	Refused int64      `json:"refused"` // connections and requests
}

func shown(b *guard.Ban) ban {
	s := ban{Of: b.Of.Text(), Since: b.Since.UTC(), Cause: b.Cause, Refused: b.Refused}
	if !b.Until.IsZero() {
		until := b.Until.UTC()
		s.Until = &until
	}
	return s
}

// bans lists the bans, sets many, or lifts them all and says how many it were. The
// body of a PUT is {"bans": […]}, each as the list shows it or as readBan reads
// it. They are set as a whole; others stay.
func (s *Server) bans(w http.ResponseWriter, r *http.Request, c *call, _ string) {
	switch r.Method {
	case http.MethodDelete:
		var all []guard.Subject
		for _, b := range s.options.Bans.Bans() {
			all = append(all, b.Of)
		}
		count, err := s.options.Bans.Lift(all...)
		if err != nil {
			s.unkept(w, err)
			return
		}
		reply(w, http.StatusOK, map[string]any{"lifted": count})
	case http.MethodPut:
		list, over, err := readBans(r.Body, c.caller())
		if err == nil {
			err = s.options.Bans.Set(list...)
		}
		if err != nil {
			s.unkept(w, err)
			return
		}
		reply(w, http.StatusOK, map[string]any{"set": len(list), "over": over})
	default:
		list := []ban{}
		for _, b := range s.options.Bans.Bans() {
			list = append(list, shown(&b))
		}
		reply(w, http.StatusOK, map[string]any{"bans": list})
	}
}

// ban shows one ban, sets it, or lifts it. It replaces what is in force.
func (s *Server) ban(w http.ResponseWriter, r *http.Request, c *call, text string) {
	of, err := guard.ParseSubject(text)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	switch r.Method {
	case http.MethodDelete:
		switch count, err := s.options.Bans.Lift(of); {
		case err != nil:
			s.unkept(w, err)
		case count == 0:
			problem(w, http.StatusNotFound, "there is no such ban", "")
		default:
			w.WriteHeader(http.StatusNoContent)
		}
		return
	case http.MethodPut:
		made, err := readBan(r.Body, of, c.caller())
		if err == nil {
			err = s.options.Bans.Set(made)
		}
		if err != nil {
			s.unkept(w, err)
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

// unkept answers why a ban is not set or lifted.
func (s *Server) unkept(w http.ResponseWriter, err error) {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, new(*guard.NotKeptError)):
		s.options.Log.Error("a ban is not kept", "error", err)
		problem(w, http.StatusInsufficientStorage, "nothing was changed: "+err.Error(), "")
	case errors.Is(err, guard.ErrBansFull):
		problem(w, http.StatusConflict, err.Error(), "")
	case errors.As(err, &large):
		problem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", large.Limit), "")
	default:
		problem(w, http.StatusBadRequest, err.Error(), "")
	}
}
