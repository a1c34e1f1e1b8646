package manage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport/proxy/guard"
)

// asked is a ban as a caller writes it. It may be one that was listed: then its
// cause is kept, and since when it is. How much it has refused is not taken over.
type asked struct {
	Of      *string `json:"of"`
	For     *string `json:"for"`
	Until   *string `json:"until"` // RFC 3339, as is since
	Reason  string  `json:"reason"`
	Cause   string  `json:"cause"`
	Since   *string `json:"since"`
	Refused int64   `json:"refused"`
}

var errBan = errors.New(`the body is a JSON object such as {"for": "1h", "reason": "…"}`)

var errNotUTF8 = errors.New("JSON is UTF-8; a name that is none is written as identity-escaped:caf%E9")

// readBan reads the body by which one ban is set,
//
//	{"for": "1h", "reason": "…"}
//
// or with until, in RFC 3339, in the place of for. Where both are missing it is
// until the ban is lifted.
func readBan(body io.Reader, of guard.Subject, caller string) (guard.Ban, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return guard.Ban{}, err
	}
	var a asked
	if len(bytes.TrimSpace(text)) > 0 {
		if err := strictly(text, &a); err != nil {
			return guard.Ban{}, errBan
		}
		if err := unique(text, folded); err != nil {
			return guard.Ban{}, err
		}
	}
	if a.Of != nil {
		return guard.Ban{}, errors.New("the path says whom the ban is of")
	}
	now := time.Now()
	b, err := a.ban(of, caller, now)
	if err == nil && over(&b, now) {
		err = errors.New("until is over")
	}
	return b, err
}

// readBans reads {"bans": […]}, and tells how many of them are over already: those
// are left out. The error has all that is wrong, a line each.
func readBans(body io.Reader, caller string) (list []guard.Ban, expired int, err error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, 0, err
	}
	var all struct {
		Bans []json.RawMessage `json:"bans"`
	}
	switch err := strictly(text, &all); {
	case errors.Is(err, errNotUTF8):
		return nil, 0, err
	case err != nil || all.Bans == nil:
		return nil, 0, errors.New(`the body is a JSON object such as {"bans": [{"of": "192.0.2.0/24", "for": "1h", "reason": "…"}]}`)
	}
	if err := unique(text, folded); err != nil {
		return nil, 0, err
	}
	now := time.Now()
	var problems []string
	for i, one := range all.Bans {
		b, err := parseBan(one, caller, now)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("bans[%d]: %v", i, err))
		case over(&b, now):
			expired++
		default:
			list = append(list, b)
		}
	}
	const most = 20 // problems that are told
	if n := len(problems); n > most {
		problems = append(problems[:most], fmt.Sprintf("and %d more", n-most))
	}
	if len(problems) > 0 {
		return nil, 0, errors.New(strings.Join(problems, "\n"))
	}
	return list, expired, nil
}

// ParseBan reads one ban of a list: an object with of, and what [readBan] reads or
// what the list shows. Caller is its cause where it names none.
func ParseBan(text []byte, caller string, now time.Time) (guard.Ban, error) {
	b, err := parseBan(text, caller, now)
	if err == nil {
		err = unique(text, folded)
	}
	return b, err
}

// parseBan reads one whose keys have been looked at.
func parseBan(text []byte, caller string, now time.Time) (guard.Ban, error) {
	var a asked
	if err := strictly(text, &a); err != nil {
		return guard.Ban{}, err
	}
	if a.Of == nil {
		return guard.Ban{}, errors.New("of is missing: whom the ban is of")
	}
	of, err := guard.ParseSubject(*a.Of)
	if err != nil {
		return guard.Ban{}, err
	}
	return a.ban(of, caller, now)
}

func (a *asked) ban(of guard.Subject, caller string, now time.Time) (guard.Ban, error) {
	b := guard.Ban{Of: of, Cause: a.Cause}
	switch {
	case a.For != nil && a.Until != nil:
		return b, errors.New("for and until exclude one another")
	case a.Reason != "" && a.Cause != "":
		return b, errors.New("reason and cause exclude one another")
	case a.Reason != "":
		b.Cause = caller + ": " + a.Reason
	case a.Cause == "":
		b.Cause = caller
	}
	b.Cause = clip(b.Cause)
	if a.For != nil {
		long, err := time.ParseDuration(*a.For)
		if err != nil {
			return b, errors.New(`for is a duration of s, m and h, such as "15m" or "168h", which is 7 days`)
		}
		if err := CheckLong(long); err != nil {
			return b, fmt.Errorf("for %w", err)
		}
		b.Until = now.Add(long)
	}
	if a.Since != nil && b.Since.UnmarshalText([]byte(*a.Since)) != nil {
		return b, errors.New(`since is a time such as "2030-01-01T00:00:00Z"`)
	}
	if a.Until != nil {
		if b.Until.UnmarshalText([]byte(*a.Until)) != nil {
			return b, errors.New(`until is a time such as "2030-01-01T00:00:00Z"`)
		}
		if b.Until.IsZero() {
			return b, errors.New("until is no time; without it the ban lasts until it is lifted")
		}
	}
	return b, nil
}

// CheckLong tells what is wrong with how long a ban is to last. One that is over
// before anybody sees it is a mistake.
func CheckLong(long time.Duration) error {
	switch {
	case long <= 0:
		return errors.New("is a duration of more than 0s")
	case long < time.Second:
		return errors.New("is a duration of at least 1s")
	}
	return nil
}

func over(b *guard.Ban, now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

// strictly reads one JSON value that has nothing but what is known. What is not
// UTF-8 is refused: encoding/json would make another name of it.
func strictly(text []byte, into any) error {
	if !utf8.Valid(text) {
		return errNotUTF8
	}
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	var kind *json.UnmarshalTypeError
	switch err := in.Decode(into); {
	case errors.As(err, &kind):
		return mistyped(kind)
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON value")
	}
	return nil
}

// mistyped says in words of JSON what an error says in those of Go.
func mistyped(e *json.UnmarshalTypeError) error {
	articles := map[string]string{"string": "a string", "number": "a number", "array": "an array", "object": "an object", "bool": "a boolean"}
	want := "an object"
	switch e.Type.Kind() {
	case reflect.String:
		want = "a string"
	case reflect.Int64:
		want = "a whole number"
	}
	got, _, _ := strings.Cut(e.Value, " ") // a number has its digits behind
	if article := articles[got]; article != "" {
		got = article
	}
	if e.Field == "" {
		return fmt.Errorf("want %s, got %s", want, got)
	}
	return fmt.Errorf("%s: want %s, got %s", e.Field, want, got)
}
