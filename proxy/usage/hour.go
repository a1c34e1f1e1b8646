package usage

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Row is what was used by or for one name.
type Row struct {
	Name string `json:"name"`
	Counts
}

// table has rows of one kind, at most twice as many as are kept: it is cut back to
// these when it is full, so that what is large finds its place among them however
// many small ones there are. What is cut off is added up in other. A row that was
// cut off and comes again begins anew.
type table struct {
	most  int
	all   []Row
	at    map[string]int // of the row, by its name
	other Counts
}

func newTable(most int) table { return table{most: most, all: []Row{}, at: map[string]int{}} }

func (t *table) add(name string, c Counts) {
	i, known := t.at[name]
	if !known {
		if len(t.all) >= 2*t.most {
			t.fill(t.copy().top())
		}
		i = len(t.all)
		name = strings.Clone(name)
		t.all = append(t.all, Row{Name: name})
		t.at[name] = i
	}
	t.all[i].add(c)
}

// fill puts these in the place of all that there is.
func (t *table) fill(with rows) {
	clear(t.at)
	t.all, t.other = t.all[:0], with.other
	for _, row := range with.rows {
		if i, same := t.at[row.Name]; same { // of names that are no text the store has what is left
			t.all[i].add(row.Counts)
			continue
		}
		t.at[row.Name] = len(t.all)
		t.all = append(t.all, row)
	}
}

// rows are those of a table that are kept, and the sum of the others.
type rows struct {
	rows  []Row
	other Counts
}

// copied is all that a table has, in any order: who puts it in order keeps nobody
// waiting who counts.
type copied struct {
	all   []Row
	other Counts
	most  int // that are kept
}

func (t *table) copy() copied { return copied{slices.Clone(t.all), t.other, t.most} }

// top has the largest rows, and those first.
func (c copied) top() rows {
	all, other := c.all, c.other
	slices.SortFunc(all, func(a, b Row) int {
		return cmp.Or(
			cmp.Compare(b.Bytes.Up+b.Bytes.Down, a.Bytes.Up+a.Bytes.Down),
			cmp.Compare(b.Connections, a.Connections), cmp.Compare(b.Denials, a.Denials), cmp.Compare(a.Name, b.Name))
	})
	most := min(c.most, len(all))
	for _, small := range all[most:] {
		other.add(small.Counts)
	}
	return rows{all[:most:most], other}
}

// hour is what was used in one hour of the UTC calendar.
type hour struct {
	number int64 // since 1970
	tables [kinds]table
	dirty  bool // there is something that the store does not have

	settled bool // it has ended, and encoded is all that there is of it

	// encoded is what was written of it last, or was to be. Guarded by Ledger.writing.
	encoded [kinds][]byte
}

func hourOf(at time.Time) int64 { return at.Unix() / 3600 }

func (h *hour) holds(at time.Time) bool { return hourOf(at) == h.number }

func (h *hour) name() string { return nameOf(h.number) }

func nameOf(number int64) string { return time.Unix(number*3600, 0).UTC().Format(hourText) }

func (h *hour) add(of *Of, c Counts) {
	for k := range h.tables {
		h.tables[k].add(of[k], c)
	}
	h.dirty = true
}

func newHour(number int64, rows int) *hour {
	h := &hour{number: number}
	for k := range h.tables {
		h.tables[k] = newTable(rows)
	}
	return h
}

// turn begins the hour that it is. One that was begun before, since the clock was
// set back, goes on. Called with l.mu held.
func (l *Ledger) turn(now time.Time) {
	l.prune = true
	// Of one that is not dirty it may be that it is being written, and is refused.
	if len(l.hour.tables[User].all) > 0 && l.options.Store != nil {
		l.finished = append(l.finished, l.hour)
	}
	if n := len(l.finished) - mostFinished; n > 0 { // the store has refused them for that long
		l.lost += n
		l.finished = slices.Delete(l.finished, 0, n)
	}
	number := hourOf(now)
	for i, h := range l.finished {
		if h.number == number {
			l.hour, l.finished = h, slices.Delete(l.finished, i, i+1)
			h.settled = false
			return
		}
	}
	l.hour = newHour(number, l.options.Rows)
	if _, known := l.stored[l.hour.name()]; known {
		if err := l.recall(l.hour); err != nil {
			l.options.Log.Error("usage: an hour is counted anew", "hour", l.hour.name(), "error", err)
		}
	}
}
