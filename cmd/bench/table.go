package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// row is a figure that tables show, with its name for people.
type row struct {
	figure, title string
	goals         []goal
}

// goal is what one of ours should reach: a ratio to another contender or, where
// that is nobody, the figure itself.
type goal struct {
	of, to string
	bound
}

// bound is what a number may be at most, or at least.
type bound struct {
	Bound float64 `json:"bound"`
	Least bool    `json:"least,omitempty"`
}

func most(n float64) bound { return bound{n, false} }

func least(n float64) bound { return bound{n, true} }

// holds judges what a table shows, and not digits that nobody sees.
func (b bound) holds(value float64) bool {
	value, _ = strconv.ParseFloat(shown(value, true), 64)
	return value == b.Bound || (value > b.Bound) == b.Least
}

func (b bound) String() string {
	if b.Least {
		return fmt.Sprintf("≥ %v", b.Bound)
	}
	return fmt.Sprintf("≤ %v", b.Bound)
}

func rows() []row {
	bulk := []goal{{"sallyport", "haproxy", most(1.1)}, {"sallyport", "dante", most(0.5)}}
	asRoot := []goal{{"sallyport", "", most(1.1)}}
	udp := []goal{{"sallyport", "dante", most(0.65)}}
	return []row{
		{"connect_cpu_us", "CPU per connection, µs", []goal{
			{"sallyport", "microsocks", most(1.1)}, {"egress", "microsocks", most(1.5)}, {"egress", "dante", most(0.6)}}},
		{"first_byte_p50_us", "first byte, one client, µs", []goal{{"sallyport", "microsocks", most(1.1)}}},
		{"down-1_cpu_s_per_gb", "CPU per GB down, 1 stream, s", bulk},
		{"down-8_cpu_s_per_gb", "CPU per GB down, 8 streams, s", bulk},
		{"up-1_cpu_s_per_gb", "CPU per GB up, 1 stream, s", bulk},
		{"up-8_cpu_s_per_gb", "CPU per GB up, 8 streams, s", bulk},
		{"down-1_nobody_to_root", "nobody's CPU per GB / root's, 1 stream", asRoot},
		{"down-8_nobody_to_root", "nobody's CPU per GB / root's, 8 streams", asRoot},
		{"ping_pong_512_cpu_us", "CPU per 512 B round trip, µs", []goal{
			{"sallyport", "haproxy", most(1)}, {"sallyport", "microsocks", most(0.75)}}},
		{"ping_pong_16384_cpu_us", "CPU per 16 KiB round trip, µs", []goal{{"sallyport", "haproxy", most(1.2)}}},
		{"udp_64_cpu_us", "CPU per 64 B datagram, µs", udp},
		{"udp_1200_cpu_us", "CPU per 1200 B datagram, µs", udp},
		{"forward_cpu_us", "CPU per forwarded request, µs", nil},
		{"idle_descriptors", "idle connection: descriptors", []goal{{"sallyport", "", most(2)}}},
		{"idle_first_pss_kib", "idle connection: memory, first ones, KiB", nil},
		{"idle_pss_kib", "idle connection: memory, further ones, KiB", []goal{{"sallyport", "", most(12)}}},
		{"idle_kernel_kib", "idle connection: kernel, KiB", []goal{{"sallyport", "haproxy", most(1.1)}}},
		{"idle_descriptors_left", "descriptors left afterwards", []goal{{"sallyport", "", most(0)}}},
		{"rest_mib", "memory at rest, MiB", nil},
		{"load_mib", "memory under load, MiB", nil},
		{"flood_cpu_us", "CPU per connection of a banned source, µs", nil},
		{"flood_per_second", "of those in a second", nil},
		{"flood_first_byte_p50_us", "first byte beside them, µs", nil},
		{"verified_percent", "verified, %", []goal{{"sallyport", "", least(100)}}},
		{"chained_http_p50_ms", "set-up by http, ms", nil},
		{"chained_https_p50_ms", "set-up by https, ms", nil},
		{"chained_socks5_p50_ms", "set-up by socks5, password, ms", nil},
		{"chained_http_cpu_us", "CPU per connection by http, µs", nil},
		{"chained_https_cpu_us", "CPU per connection by https, µs", nil},
		{"chained_socks5_cpu_us", "CPU per connection by socks5, µs", nil},
	}
}

// report is the result of a run.
type report struct {
	Machine  string        `json:"machine"`
	Program  string        `json:"program,omitempty"` // of ours, with its version; empty: it was not started
	Rounds   int           `json:"rounds"`
	Tables   []*comparison `json:"tables"`
	Missing  []string      `json:"missing,omitempty"`  // what could not be measured here, and why
	Failures []string      `json:"failures,omitempty"` // measurements that went wrong
}

// comparison is of contenders that are asked in the same way, in their order.
// Ratios are of ours to others: below 1 is better, but for the share that is
// verified and for rates.
type comparison struct {
	Title   string         `json:"title"`
	Results []reportResult `json:"results"`
	Ratios  []reportRatios `json:"ratios"`
	Goals   []reportGoal   `json:"goals"`
	ours    []string
}

type reportResult struct {
	Name    string               `json:"name"`
	Medians map[string]float64   `json:"medians"`
	Samples map[string][]float64 `json:"samples"` // by round
}

type reportRatios struct {
	Of     string             `json:"of"`
	To     string             `json:"to"`
	Ratios map[string]float64 `json:"ratios"`
}

// reportGoal is one that was measured.
type reportGoal struct {
	Of     string `json:"of"`
	To     string `json:"to,omitempty"` // empty: the figure itself
	Figure string `json:"figure"`
	bound
	Found float64 `json:"found"`
	Met   bool    `json:"met"`
}

func (g reportGoal) String() string {
	text := g.bound.String()
	if g.To != "" {
		text += " of " + g.To
	}
	if g.Met {
		return text + ": met"
	}
	return text + ": missed"
}

// compare compares the first contender, and the one that is named, with each of
// the others. Contenders of one name are one column.
func compare(title string, o *outcome, contenders []*contender, too string) *comparison {
	c := &comparison{Title: title}
	ours := func(name string) bool { return name == contenders[0].name || name == too }
	for i, one := range contenders {
		if slices.ContainsFunc(contenders[:i], func(before *contender) bool { return before.name == one.name }) {
			continue
		}
		c.Results = append(c.Results, reportResult{one.name, o.medians(one.name), o.samples[one.name]})
	}
	for _, of := range c.Results {
		if !ours(of.Name) {
			continue
		}
		c.ours = append(c.ours, of.Name)
		for _, to := range c.Results {
			if !ours(to.Name) {
				c.Ratios = append(c.Ratios, reportRatios{of.Name, to.Name, ratios(of.Medians, to.Medians)})
			}
		}
	}
	for _, row := range rows() {
		for _, g := range row.goals {
			if found, ok := c.found(row.figure, g); ok {
				c.Goals = append(c.Goals, reportGoal{g.of, g.to, row.figure, g.bound, found, g.holds(found)})
			}
		}
	}
	return c
}

// found is what a goal is about, where it was measured.
func (c *comparison) found(figure string, g goal) (value float64, ok bool) {
	for _, r := range c.Ratios {
		if r.Of == g.of && r.To == g.to {
			value, ok = r.Ratios[figure]
		}
	}
	for _, r := range c.Results {
		if r.Name == g.of && g.to == "" && slices.Contains(c.ours, g.of) {
			value, ok = r.Medians[figure]
		}
	}
	return value, ok
}

func (r *report) json(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

func (r *report) text(w io.Writer) error {
	head := r.Machine
	if r.Program != "" {
		head += "; " + r.Program
	}
	fmt.Fprintf(w, "%s; %d rounds, medians\n", head, r.Rounds)
	for _, c := range r.Tables {
		if err := c.text(w); err != nil {
			return err
		}
	}
	for _, missing := range r.Missing {
		fmt.Fprintf(w, "\nnot measured: %s", missing)
	}
	for _, failure := range r.Failures {
		fmt.Fprintf(w, "\nfailed: %s", failure)
	}
	_, err := fmt.Fprintln(w)
	return err
}

func (c *comparison) text(w io.Writer) error {
	var names []string
	var columns []map[string]float64
	for _, result := range c.Results {
		names, columns = append(names, result.Name), append(columns, result.Medians)
	}
	if err := table(w, c.Title, names, columns, nil); err != nil {
		return err
	}
	for _, of := range c.ours {
		names, columns = nil, nil
		for _, ratio := range c.Ratios {
			if ratio.Of == of {
				names, columns = append(names, "/ "+ratio.To), append(columns, ratio.Ratios)
			}
		}
		goals := map[string][]string{}
		for _, g := range c.Goals {
			if g.Of == of {
				goals[g.Figure] = append(goals[g.Figure], g.String())
			}
		}
		if len(names)+len(goals) == 0 {
			continue
		}
		if err := table(w, of, names, columns, goals); err != nil {
			return err
		}
	}
	return nil
}

// table leaves out rows in which there is nothing. What should be reached is the
// last column, where there is any.
func table(w io.Writer, title string, names []string, columns []map[string]float64, goals map[string][]string) error {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	line := func(cells []string, last string) {
		text := strings.Join(cells, "\t") + "\t"
		if last != "" {
			text += "   " + last // of no column, so that it is aligned to the left
		}
		fmt.Fprintln(t, text)
	}
	last := ""
	if len(goals) > 0 {
		last = "target"
	}
	line(append([]string{title}, names...), last)
	for _, row := range rows() {
		cells, found := []string{row.title}, len(goals[row.figure]) > 0
		for _, column := range columns {
			value, ok := column[row.figure]
			cells = append(cells, shown(value, ok))
			found = found || ok
		}
		if found {
			line(cells, strings.Join(goals[row.figure], ", "))
		}
	}
	return t.Flush()
}

// shown has three digits that count.
func shown(value float64, ok bool) string {
	switch size := math.Abs(value); {
	case !ok:
		return "–"
	case size >= 100 || value == math.Trunc(value):
		return fmt.Sprintf("%.0f", value)
	case size >= 10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}
