package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
)

// run measures all contenders, round by round. Within a round they take turns
// at each measurement, so that what is compared was measured under the same
// load of the machine.
type run struct {
	rounds   int
	settings settings
	measure  []measurement
	progress io.Writer
}

// outcome is what the rounds have found.
type outcome struct {
	samples  map[string]map[string][]float64 // by contender and figure
	failures []string
}

// warm has each contender ready to be measured.
func warm(contenders []*contender) *outcome {
	o := &outcome{samples: map[string]map[string][]float64{}}
	for _, c := range contenders {
		o.samples[c.name] = map[string][]float64{}
	}
	for _, c := range contenders {
		if err := warmUp(&c.client); err != nil {
			o.failures = append(o.failures, fmt.Sprintf("%s: %v", c.name, err))
		}
	}
	return o
}

// turns adds to the outcome what the rounds find.
func (r *run) turns(ctx context.Context, contenders []*contender, o *outcome) error {
	for round := range r.rounds {
		for _, m := range r.measure {
			for i := range contenders {
				c := contenders[(i+round)%len(contenders)] // nobody is always the first
				found, err := m.run(ctx, c, r.settings)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					o.failures = append(o.failures, fmt.Sprintf("%s: %s: %v", c.name, m.name, err))
				}
				for name, value := range found {
					o.samples[c.name][name] = append(o.samples[c.name][name], value)
				}
			}
		}
		fmt.Fprintf(r.progress, "round %d of %d done\n", round+1, r.rounds)
	}
	return nil
}

// warmUp has everything done that is done once: pages are touched, a password
// is verified, heaps grow.
func warmUp(c *client) error {
	for range 200 {
		if err := once(c); err != nil {
			return err
		}
	}
	return nil
}

// medians are the figures of one contender.
func (o *outcome) medians(contender string) map[string]float64 {
	found := map[string]float64{}
	for name, samples := range o.samples[contender] {
		found[name] = median(samples)
	}
	return found
}

func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// ratios divide one contender's figures by another's, where both have them.
func ratios(of, to map[string]float64) map[string]float64 {
	found := maps.Clone(of)
	maps.DeleteFunc(found, func(name string, value float64) bool { return to[name] == 0 })
	for name := range found {
		found[name] /= to[name]
	}
	return found
}
