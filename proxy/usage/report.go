package usage

import "time"

// mostReported bounds the rows of a report.
const mostReported = 10_000

// Report is what was used in some hours. Its rows and Other add up to Total, which
// is the same whatever the report is by.
type Report struct {
	By    string    `json:"by"`
	Since time.Time `json:"since"` // a full hour
	Until time.Time `json:"until"`
	Rows  []Row     `json:"rows"`  // most bytes first; never nil
	Other Counts    `json:"other"` // what was too small for a row, in its hour or here
	Total Counts    `json:"total"`

	// Written is when the store had all that there was then: of what was used since,
	// nobody knows once the process is killed. Zero: it has nothing.
	Written time.Time `json:"written"`
}

// Report adds up the hours, from the one that was so long ago to the present one,
// open sessions included.
func (l *Ledger) Report(by Kind, since time.Duration) (*Report, error) {
	l.reporting.Lock() // one at a time needs the memory of one
	defer l.reporting.Unlock()
	sum := newTable(mostReported)
	add := func(r rows) {
		for _, row := range r.rows {
			sum.add(row.Name, row.Counts)
		}
		sum.other.add(r.other)
	}

	l.mu.Lock()
	l.sum()
	now, written := time.Now().UTC(), l.written
	first := nameOf(hourOf(now.Add(-since)))
	here := map[string]bool{} // hours that the store does not have, or not all of
	var tables []copied       // of those that are wanted
	for _, h := range append(l.finished[:len(l.finished):len(l.finished)], l.hour) {
		here[h.name()] = true
		if h.name() >= first {
			tables = append(tables, h.tables[by].copy())
		}
	}
	days := map[string]bool{} // kinds of the store, one for each day of the month
	for name := range l.stored {
		if name >= first {
			days[kindOf(by, name)] = true
		}
	}
	l.mu.Unlock()
	for _, t := range tables {
		add(t.top())
	}
	wanted := func(name string) bool { return name >= first && !here[name] }
	for kind := range days {
		if err := l.read(kind, wanted, add); err != nil {
			return nil, err
		}
	}

	r := &Report{By: by.String(), Until: now, Written: written}
	r.Since, _ = time.Parse(hourText, first)
	top := sum.copy().top()
	r.Rows, r.Other, r.Total = top.rows, top.other, top.other
	for _, row := range r.Rows {
		r.Total.add(row.Counts)
	}
	return r, nil
}
