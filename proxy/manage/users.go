package manage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/proxy/identity"
)

// Users are those of the policy's data and of the store; the store's are written.
type Users interface {
	Account(name string) (identity.Account, bool)
	Accounts(after string, most int) (list []identity.Account, more bool)
	Write(ctx context.Context, terms identity.Terms, edits ...identity.Edit) error
	Remove(name, match string) error
}

const (
	mostUsers  = 1000     // of one list
	maxImport  = 32 << 20 // bytes of a body with many users
	importTime = time.Minute
)

// edit reads the user of a PUT to /v1/users/NAME before the policy is asked,
// which may judge by what is written. What is wrong with it is told to those only
// who may write.
func (s *Server) edit(r *http.Request, c *call) {
	path := c.facts.Path
	if r.Method != http.MethodPut || len(path) != 3 || path[0] != "v1" || path[1] != "users" {
		return
	}
	c.facts.Body.Name = path[2]
	object, err := readObject(r.Body)
	if err == nil {
		c.edit, err = identity.ParseEdit(path[2], object)
	}
	c.bad = err
	c.facts.Body.Groups = c.edit.Groups()
}

// readObject reads one JSON object, with numbers as they are written. No object in
// it has a key twice.
func readObject(body io.Reader) (map[string]any, error) {
	text, err := io.ReadAll(body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, large
	case err != nil:
		return nil, errors.New("the body did not arrive")
	}
	var object map[string]any
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber()
	if err := in.Decode(&object); err != nil || object == nil {
		return nil, errors.New(`the body is a JSON object such as {"password": "…", "groups": ["…"]}`)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the body is one JSON object")
	}
	if err := unique(text, exact); err != nil {
		return nil, err
	}
	return object, nil
}

// users writes many users, or lists them by their names, so many at a time:
// ?after=NAME has those that follow, ?limit=N fewer at once.
func (s *Server) users(w http.ResponseWriter, r *http.Request, c *call, _ string) {
	if r.Method == http.MethodPut {
		s.importUsers(w, r, c)
		return
	}
	limit := mostUsers
	if text := c.facts.Query["limit"]; len(text) > 0 {
		n, err := strconv.Atoi(text[0])
		if err != nil || n < 1 {
			problem(w, http.StatusBadRequest, "limit is a positive number", "")
			return
		}
		limit = min(n, mostUsers)
	}
	var after string
	if text := c.facts.Query["after"]; len(text) > 0 {
		after = text[0]
	}
	var answer struct {
		Users []identity.Account `json:"users"`
		Next  string             `json:"next,omitempty"` // what to put into after
	}
	list, more := s.options.Users.Accounts(after, limit)
	answer.Users = append([]identity.Account{}, list...)
	if more {
		answer.Next = list[len(list)-1].Name
	}
	reply(w, http.StatusOK, answer)
}

// user shows one user, writes it, or removes it.
func (s *Server) user(w http.ResponseWriter, r *http.Request, c *call, name string) {
	match, err := condition(r.Header, "If-Match")
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	switch r.Method {
	case http.MethodDelete:
		if err := s.options.Users.Remove(name, match); err != nil {
			s.unwritten(w, r, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	case http.MethodPut:
		if c.bad != nil {
			unread(w, c.bad)
			return
		}
		terms := identity.Terms{Match: match}
		switch none := r.Header.Get("If-None-Match"); none {
		case "":
		case "*":
			terms.New = true
		default:
			problem(w, http.StatusBadRequest, "If-None-Match is *", "")
			return
		}
		if err := s.options.Users.Write(r.Context(), terms, c.edit); err != nil {
			s.unwritten(w, r, err)
			return
		}
	}
	a, ok := s.options.Users.Account(name)
	if !ok {
		s.unwritten(w, r, identity.ErrUnknown)
		return
	}
	if a.Tag != "" {
		w.Header().Set("ETag", `"`+a.Tag+`"`)
	}
	reply(w, http.StatusOK, a)
}

// condition reads an If-Match (RFC 9110, section 13.1.1) of one tag or "*". The
// tag is without its quotes, and "" where there is none.
func condition(header http.Header, name string) (string, error) {
	values := header.Values(name)
	if len(values) == 0 {
		return "", nil
	}
	tag, quoted := strings.CutPrefix(values[0], `"`)
	tag, closed := strings.CutSuffix(tag, `"`)
	switch {
	case len(values) == 1 && values[0] == "*":
		return "*", nil
	case len(values) > 1 || !quoted || !closed || tag == "" || strings.ContainsAny(tag, `",`):
		return "", fmt.Errorf(`%s is one ETag, in quotes, or *`, name)
	}
	return tag, nil
}

// importUsers writes many users, all or none. The body is
//
//	{"users": {NAME: {…}}, "existing": "refuse"}
//
// where existing may be "update": then what is not said of a user that there is
// stays as it is. The policy is asked about each of them as if it were written by
// itself; those that it was asked about before were the call's own path.
func (s *Server) importUsers(w http.ResponseWriter, r *http.Request, c *call) {
	select {
	case s.importing <- struct{}{}: // each takes much memory
		defer func() { <-s.importing }()
	default:
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusServiceUnavailable, "another import is going on", "")
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(importTime))
	object, err := readObject(r.Body)
	var edits []identity.Edit
	var update bool
	if err == nil {
		edits, update, err = s.parseImport(object)
	}
	if err != nil {
		unread(w, err)
		return
	}
	for i := range edits {
		c.facts.Body.Name, c.facts.Body.Groups = edits[i].Name, edits[i].Groups()
		if s.ask(context.WithoutCancel(r.Context()), c); !c.decision.Allowed() {
			refuse(w, r.Header, c)
			return
		}
	}
	_ = control.SetWriteDeadline(time.Now().Add(importTime))
	if err := s.options.Users.Write(r.Context(), identity.Terms{New: !update, Keep: update}, edits...); err != nil {
		s.unwritten(w, r, err)
		return
	}
	reply(w, http.StatusOK, map[string]int{"written": len(edits)})
}

// parseImport reads the edits of many users, by their names. What a user's groups
// will be stands in each edit, as the policy sees it.
func (s *Server) parseImport(object map[string]any) (edits []identity.Edit, update bool, err error) {
	users, ok := object["users"].(map[string]any)
	existing, _ := object["existing"].(string)
	if object["existing"] == nil {
		existing = "refuse"
	}
	for key := range object {
		ok = ok && (key == "users" || key == "existing")
	}
	if !ok || existing != "refuse" && existing != "update" {
		return nil, false, errors.New(`the body is a JSON object such as {"users": {"ann": {"hash": "…"}}, "existing": "refuse"}, or with "update"`)
	}
	if len(users) == 0 || len(users) > identity.MaxUsers {
		return nil, false, fmt.Errorf("1 to %d users are written at once", identity.MaxUsers)
	}
	update = existing == "update"
	var problems identity.Problems
	for _, name := range slices.Sorted(maps.Keys(users)) {
		fields, ok := users[name].(map[string]any)
		if !ok {
			problems = append(problems, fmt.Errorf("users[%q]: want an object", name))
			continue
		}
		if fields["groups"] == nil && update { // null says nothing, too
			groups := []any{} // of one who is new, whoever else adds him meanwhile
			if before, ok := s.options.Users.Account(name); ok {
				for _, group := range before.Groups {
					groups = append(groups, group)
				}
			}
			fields["groups"] = groups
		}
		e, err := identity.ParseEdit(name, fields)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		edits = append(edits, e)
	}
	if problems != nil {
		return nil, false, problems
	}
	return edits, update, nil
}

// unread tells what is wrong with a body.
func unread(w http.ResponseWriter, err error) {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		problem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", large.Limit), "")
		return
	}
	problem(w, http.StatusBadRequest, err.Error(), "")
}

// unwritten tells why a user was not written.
func (s *Server) unwritten(w http.ResponseWriter, r *http.Request, err error) {
	var problems identity.Problems
	switch {
	case errors.Is(err, identity.ErrUnknown):
		problem(w, http.StatusNotFound, err.Error(), "")
	case errors.Is(err, identity.ErrChanged):
		problem(w, http.StatusPreconditionFailed, err.Error(), "")
	case errors.Is(err, identity.ErrExists) && r.Header.Get("If-None-Match") != "":
		problem(w, http.StatusPreconditionFailed, err.Error(), "")
	case errors.Is(err, identity.ErrExists), errors.Is(err, identity.ErrPolicy):
		problem(w, http.StatusConflict, err.Error(), "")
	case errors.Is(err, identity.ErrFull):
		problem(w, http.StatusInsufficientStorage, err.Error(), "")
	case errors.As(err, &problems):
		problem(w, http.StatusBadRequest, err.Error(), "")
	case r.Context().Err() != nil: // the caller has gone
		problem(w, http.StatusServiceUnavailable, "nothing was written", "")
	default:
		s.options.Log.Error("a user is not written", "error", err)
		problem(w, http.StatusInsufficientStorage, "nothing was changed: "+err.Error(), "")
	}
}
