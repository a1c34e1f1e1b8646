// Package audit keeps a record of which policy was in force: a file to which each
// activation and each refusal adds one line, and whose lines are chained, so that
// a change, a removal, a swap of lines is found by whoever reads it.
//
// A line is one [Record] as a JSON object. Its last member is "hash", the SHA-256
// in hexadecimal of the line's bytes without that member and without the line's
// end: of
//
//	{"time":"…",…,"previous":"…","hash":"4f…"}
//
// it is that of
//
//	{"time":"…",…,"previous":"…"}
//
// and "previous", the last member but one, is the hash of the record before, empty in
// the first. Nothing has to be parsed or put in order for it, so sed and sha256sum can
// verify a file.
//
// There is no key in this: who may write to the file can make all of it anew. What
// shows that is a hash that was noted elsewhere, as in the program's log; and so does
// the loss of the last lines, which a chain alone cannot tell.
//
// A process that dies may leave half a line behind. The next one ends that line and
// tells its length and digest in a record of its own ([Mended]), so that it is the
// only thing in a file that may be no record.
//
// A file may be moved away or emptied while the program runs. The next record
// begins a new one by records that say so ([Continued]), the first with the last
// hash of the old file, and that carry what was known of each bundle.
//
// log.go writes, chain.go reads and verifies, history.go is what the records tell
// of each bundle.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Outcome is what a record tells.
type Outcome string

// Outcomes.
const (
	Started   Outcome = "started"   // the program began; By is empty
	Activated Outcome = "activated" // a policy is in force
	Refused   Outcome = "refused"   // a policy is not: the one before stays
	Mended    Outcome = "mended"    // what lies between this line and the last record is half a line
	Continued Outcome = "continued" // the file before was moved away or emptied
)

// Record is one line.
type Record struct {
	Time     time.Time `json:"time"` // UTC
	Outcome  Outcome   `json:"outcome"`
	By       string    `json:"by,omitempty"`       // who or what brought the policy
	Revision string    `json:"revision,omitempty"` // of the policy as a whole
	Digest   string    `json:"digest,omitempty"`   // of all its sources, SHA-256 in hexadecimal
	Sources  []Source  `json:"sources,omitempty"`
	Problems []string  `json:"problems,omitempty"` // what the checks found
	Unsaid   int       `json:"unsaid,omitempty"`   // problems and sources that found no room
	Lost     int       `json:"lost,omitempty"`     // records that should be before this one and are not
	Torn     *Torn     `json:"torn,omitempty"`     // of Mended
	History  *History  `json:"history,omitempty"`  // of Continued: of the bundle that is the one source
	Version  string    `json:"version"`            // of the program
	Previous string    `json:"previous"`           // the hash of the record before

	Hash string `json:"-"` // of this one
}

// Source is one bundle that a policy consists of.
type Source struct {
	Name     string  `json:"name"`
	From     string  `json:"from,omitempty"`     // URL without credentials
	Revision string  `json:"revision,omitempty"` // of its manifest
	Sequence *uint64 `json:"sequence,omitempty"` // metadata.sequence of its manifest
	Digest   string  `json:"digest,omitempty"`   // SHA-256 in hexadecimal
	KeyID    string  `json:"key_id,omitempty"`   // of the signer's key
}

// Torn is half a line.
type Torn struct {
	Bytes  int64  `json:"bytes"` // its end not counted
	Digest string `json:"digest"`
}

// Bounds on what one record holds, whatever a bundle says.
const (
	maxLine     = 1 << 20 // bytes
	maxText     = 256     // bytes of a name, a revision, a URL
	maxProblem  = 1 << 10 // bytes
	maxProblems = 20
	maxSources  = 256
)

// bound cuts a record to what a line may hold.
func (r *Record) bound() {
	r.By, r.Revision, r.Digest = clip(r.By, maxText), clip(r.Revision, maxText), clip(r.Digest, maxText)
	var sources []Source
	for i, s := range r.Sources {
		if i == maxSources {
			r.Unsaid += len(r.Sources) - i
			break
		}
		sources = append(sources, s.Recorded())
	}
	r.Sources = sources
	var problems []string
	for i, p := range r.Problems {
		if i == maxProblems {
			r.Unsaid += len(r.Problems) - i
			break
		}
		problems = append(problems, clip(p, maxProblem))
	}
	r.Problems = problems
}

// Recorded is a source as a record holds it, and as it has to be to be held
// against one.
func (s Source) Recorded() Source {
	s.Name, s.From, s.Revision = clip(s.Name, maxText), clip(s.From, maxText), clip(s.Revision, maxText)
	s.Digest, s.KeyID = clip(s.Digest, maxText), clip(s.KeyID, maxText)
	return s
}

// userinfo is what comes before the host of a URL, wherever in a text that is.
var userinfo = regexp.MustCompile(`(://)[^/?#\s"'@]*@`)

// clip cuts a text, and the credentials out of URLs in it. What cannot be printed
// is replaced, but for the line breaks of a message.
func clip(text string, most int) string {
	text = userinfo.ReplaceAllString(text, "$1")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != '\n' {
			return utf8.RuneError
		}
		return r
	}, text)
	if len(text) <= most {
		return text
	}
	cut := most - len("…")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// line is the record as it stands in the file, its end included. It sets Hash.
func (r *Record) line() ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		return nil, err
	}
	bare := bytes.TrimSuffix(body.Bytes(), []byte("\n"))
	r.Hash = digest(bare)
	line := append(bare[:len(bare)-1], member+r.Hash+closing+"\n"...)
	if len(line) > maxLine {
		return nil, fmt.Errorf("a record of %d bytes is more than the %d that one may have", len(line), maxLine)
	}
	return line, nil
}

// How a line ends.
const (
	member  = `,"hash":"`
	closing = `"}`
	ending  = len(member) + 2*sha256.Size + len(closing)
)

var errNoRecord = errors.New("is no record")

// parse reads a line without its end, and holds it against its hash.
func parse(line []byte) (*Record, error) {
	if len(line) < ending {
		return nil, errNoRecord
	}
	bare, end := line[:len(line)-ending], line[len(line)-ending:]
	hash := string(end[len(member) : len(end)-len(closing)])
	if !bytes.HasPrefix(end, []byte(member)) || !bytes.HasSuffix(end, []byte(closing)) {
		return nil, errNoRecord
	}
	if sum := digest(append(bare[:len(bare):len(bare)], '}')); sum != hash {
		return nil, fmt.Errorf("has the hash %s, and should have %s", abbreviate(hash), abbreviate(sum))
	}
	r := Record{Hash: hash}
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("is no record: %w", err)
	}
	return &r, nil
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// abbreviate shortens a hash for people. What stands in its place may be anything.
func abbreviate(hash string) string {
	const most = 12
	if len(hash) > most {
		return fmt.Sprintf("%+q…", hash[:most])
	}
	return fmt.Sprintf("%+q", hash)
}
