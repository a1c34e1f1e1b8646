package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is a figure that tables show, with its name for people.
type row struct{ figure, title string }

func rows() []row {
	return []row{
		{"connect_cpu_us", "CPU per connection, µs"},
		{"first_byte_p50_us", "first byte, one client, µs"},
		{"down-1_cpu_s_per_gb", "CPU per GB down, 1 stream, s"},
		{"down-8_cpu_s_per_gb", "CPU per GB down, 8 streams, s"},
		{"up-1_cpu_s_per_gb", "CPU per GB up, 1 stream, s"},
		{"up-8_cpu_s_per_gb", "CPU per GB up, 8 streams, s"},
		{"down-1_nobody_to_root", "nobody's CPU per GB / root's, 1 stream"},
		{"down-8_nobody_to_root", "nobody's CPU per GB / root's, 8 streams"},
		{"ping_pong_512_cpu_us", "CPU per 512 B round trip, µs"},
		{"ping_pong_16384_cpu_us", "CPU per 16 KiB round trip, µs"},
		{"udp_64_cpu_us", "CPU per 64 B datagram, µs"},
		{"udp_1200_cpu_us", "CPU per 1200 B datagram, µs"},
		{"forward_cpu_us", "CPU per forwarded request, µs"},
		{"idle_descriptors", "idle connection: descriptors"},
		{"idle_first_pss_kib", "idle connection: memory, first ones, KiB"},
		{"idle_pss_kib", "idle connection: memory, further ones, KiB"},
		{"idle_kernel_kib", "idle connection: kernel, KiB"},
		{"idle_descriptors_left", "descriptors left afterwards"},
		{"rest_mib", "memory at rest, MiB"},
		{"load_mib", "memory under load, MiB"},
		{"flood_cpu_us", "CPU per connection of a banned source, µs"},
		{"flood_per_second", "of those in a second"},
		{"flood_first_byte_p50_us", "first byte beside them, µs"},
		{"verified_percent", "verified, %"},
		{"chained_http_p50_ms", "set-up by http, ms"},
		{"chained_https_p50_ms", "set-up by https, ms"},
		{"chained_socks5_p50_ms", "set-up by socks5, password, ms"},
		{"chained_http_cpu_us", "CPU per connection by http, µs"},
		{"chained_https_cpu_us", "CPU per connection by https, µs"},
		{"chained_socks5_cpu_us", "CPU per connection by socks5, µs"},
	}
}

// report is the result of a run, in the order of the contenders. Ratios are of
// ours to others: below 1 is better, but for the share that is verified and for
// rates.
type report struct {
	Machine  string         `json:"machine"`
	Rounds   int            `json:"rounds"`
	Results  []reportResult `json:"results"`
	Ratios   []reportRatios `json:"ratios"`
	Missing  []string       `json:"missing,omitempty"`  // what could not be measured here, and why
	Failures []string       `json:"failures,omitempty"` // measurements that went wrong
	Chains   *report        `json:"chains,omitempty"`   // of those that lead through another one
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

// newReport compares each of ours with each of the others. Contenders of one name
// are one column.
func newReport(o *outcome, contenders []*contender, ours func(name string) bool) *report {
	r := &report{Failures: o.failures}
	for i, c := range contenders {
		if slices.ContainsFunc(contenders[:i], func(before *contender) bool { return before.name == c.name }) {
			continue
		}
		r.Results = append(r.Results, reportResult{c.name, o.medians(c.name), o.samples[c.name]})
	}
	for _, of := range r.Results {
		for _, to := range r.Results {
			if ours(of.Name) && !ours(to.Name) {
				r.Ratios = append(r.Ratios, reportRatios{of.Name, to.Name, ratios(of.Medians, to.Medians)})
			}
		}
	}
	return r
}

// failed is how many measurements went wrong.
func (r *report) failed() int {
	if r == nil {
		return 0
	}
	return len(r.Failures) + r.Chains.failed()
}

func (r *report) json(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

func (r *report) text(w io.Writer) error {
	fmt.Fprintf(w, "%s; %d rounds, medians\n\n", r.Machine, r.Rounds)
	if len(r.Results) == 0 {
		return r.Chains.text(w)
	}
	var names []string
	var columns []map[string]float64
	for _, result := range r.Results {
		names, columns = append(names, result.Name), append(columns, result.Medians)
	}
	if err := table(w, "", names, columns); err != nil {
		return err
	}
	names, columns = nil, nil
	of := ""
	for i, ratio := range r.Ratios {
		of = ratio.Of
		names, columns = append(names, "/ "+ratio.To), append(columns, ratio.Ratios)
		if i+1 == len(r.Ratios) || r.Ratios[i+1].Of != of {
			fmt.Fprintln(w)
			if err := table(w, of, names, columns); err != nil {
				return err
			}
			names, columns = nil, nil
		}
	}
	for _, missing := range r.Missing {
		fmt.Fprintf(w, "\nnot measured: %s", missing)
	}
	for _, failure := range r.Failures {
		fmt.Fprintf(w, "\nfailed: %s", failure)
	}
	_, err := fmt.Fprintln(w)
	if err != nil || r.Chains == nil {
		return err
	}
	fmt.Fprintln(w)
	return r.Chains.text(w)
}

// table leaves out rows in which there is nothing.
func table(w io.Writer, title string, names []string, columns []map[string]float64) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\t%s\t\n", title, strings.Join(names, "\t"))
	for _, row := range rows() {
		line, found := row.title, false
		for _, column := range columns {
			value, ok := column[row.figure]
			line += "\t" + shown(value, ok)
			found = found || ok
		}
		if found {
			fmt.Fprintf(t, "%s\t\n", line)
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
