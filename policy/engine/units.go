package engine

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"sallyport/policy"
)

// parseDuration reads Go's text for a duration ("1m30s"), never negative.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf(`%q is not a duration such as "1m30s"`, text)
	}
	return d, nil
}

// byteUnits are the endings of a size, each before those that it ends in.
var byteUnits = []struct {
	ending string
	bytes  float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// parseSize reads a number of bytes: "512", "10MiB", "1.5GB". What is not
// whole is rounded up, so that a bound never becomes none.
func parseSize(text string) (int64, error) {
	number, unit := text, 1.0
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(text, u.ending); ok {
			number, unit = n, u.bytes
			break
		}
	}
	if strings.Trim(number, "0123456789.") == "" {
		if f, err := strconv.ParseFloat(number, 64); err == nil {
			if whole, err := scaled(f, unit); err == nil {
				return whole, nil
			}
		}
	}
	return 0, fmt.Errorf(`%q is not a size such as "10MiB"`, text)
}

// parseSpeed reads a number of bytes a second: "10MiB/s".
func parseSpeed(text string) (int64, error) {
	if size, ok := strings.CutSuffix(text, "/s"); ok {
		if n, err := parseSize(size); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf(`%q is not a rate such as "10MiB/s"`, text)
}

// scaled is number × unit, rounded up.
func scaled(number, unit float64) (int64, error) {
	product := math.Ceil(number * unit)
	if !(product >= 0 && product < math.MaxInt64) { // NaN too
		return 0, fmt.Errorf("%v is out of range", number)
	}
	return int64(product), nil
}

// parseRate reads how many there may be in a second, a minute or an hour:
// "20/s".
func parseRate(text string) (policy.Pace, error) {
	number, unit, _ := strings.Cut(text, "/")
	per, known := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	if known && number != "" && strings.Trim(number, "0123456789.") == "" {
		if n, err := strconv.ParseFloat(number, 64); err == nil && n <= maxRate {
			return policy.Pace{Count: n, Per: per}, nil
		}
	}
	return policy.Pace{}, fmt.Errorf(`%q is not a rate such as "20/s", "100/m" or "1000/h"`, text)
}

// maxRate bounds what is counted with.
const maxRate = 1e9

// parsePrefix reads a prefix as a policy sees those of an address: without
// anything behind its length.
func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() || p.String() != text {
		return netip.Prefix{}, fmt.Errorf(`%q is not a prefix such as "192.0.2.0/24"`, text)
	}
	return p, nil
}
