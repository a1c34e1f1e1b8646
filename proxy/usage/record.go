package usage

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// What the store has of it, as JSON; the rows, of which there are many, compressed.

// rowsRecord is the rows of one kind of an hour, column by column. The columns of
// numbers have one more, of what is in none of the rows.
type rowsRecord struct {
	Names       []string `json:"names"`
	Connections []int64  `json:"connections"`
	Up          []int64  `json:"up"`
	Down        []int64  `json:"down"`
	Denials     []int64  `json:"denials"`
}

// accountRecord is an account in the store.
type accountRecord struct {
	Other bool         `json:"other,omitempty"` // it is of no proved identity
	Day   periodRecord `json:"day"`
	Month periodRecord `json:"month"`
}

type periodRecord struct {
	Of          string `json:"of"`
	Bytes       int64  `json:"bytes"`
	Connections int64  `json:"connections"`
}

var (
	errNegative = errors.New("a number in it is negative")
	errColumns  = errors.New("its columns are not of one length")
)

// mostRecord bounds the rows of one kind of an hour, uncompressed.
const mostRecord = 8 << 20

func (a *Account) record() accountRecord {
	of := func(p period) periodRecord { return periodRecord{p.of, p.bytes, p.connections} }
	return accountRecord{Other: a.class != proved, Day: of(a.periods[day]), Month: of(a.periods[month])}
}

func (r accountRecord) encode() []byte { return marshal(r) }

func decodeAccount(value []byte) (*accountRecord, error) {
	var r accountRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("it is no account: %w", err)
	}
	if min(r.Day.Bytes, r.Day.Connections, r.Month.Bytes, r.Month.Connections) < 0 {
		return nil, errNegative
	}
	return &r, nil
}

// encoder writes rows. It keeps what compressing needs, which is much.
type encoder struct{ w *flate.Writer }

func (e *encoder) encode(t rows) []byte {
	var r rowsRecord
	for _, row := range append(t.rows[:len(t.rows):len(t.rows)], Row{Counts: t.other}) {
		r.Names = append(r.Names, row.Name)
		r.Connections = append(r.Connections, row.Connections)
		r.Up = append(r.Up, row.Bytes.Up)
		r.Down = append(r.Down, row.Bytes.Down)
		r.Denials = append(r.Denials, row.Denials)
	}
	r.Names = r.Names[:len(t.rows)]
	var text bytes.Buffer
	if e.w == nil {
		e.w, _ = flate.NewWriter(nil, flate.BestSpeed) // which is a level
	}
	e.w.Reset(&text)
	_, _ = e.w.Write(marshal(r)) // a buffer takes all
	_ = e.w.Close()
	return text.Bytes()
}

func decodeRows(value []byte) (rows, error) {
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(value)), mostRecord))
	if err != nil {
		return rows{}, fmt.Errorf("it is not compressed: %w", err)
	}
	var r rowsRecord
	if err := json.Unmarshal(text, &r); err != nil {
		return rows{}, fmt.Errorf("it is no rows: %w", err)
	}
	n := len(r.Names)
	if len(r.Connections) != n+1 || len(r.Up) != n+1 || len(r.Down) != n+1 || len(r.Denials) != n+1 {
		return rows{}, errColumns
	}
	t := rows{rows: make([]Row, n)}
	for i := range n + 1 {
		c := Counts{r.Connections[i], Bytes{r.Up[i], r.Down[i]}, r.Denials[i]}
		if min(c.Connections, c.Bytes.Up, c.Bytes.Down, c.Denials) < 0 {
			return rows{}, errNegative
		}
		if i < n {
			t.rows[i] = Row{r.Names[i], c}
		} else {
			t.other = c
		}
	}
	return t, nil
}

func marshal(of any) []byte {
	text, err := json.Marshal(of)
	if err != nil {
		panic(err) // of what is but strings and numbers
	}
	return text
}
