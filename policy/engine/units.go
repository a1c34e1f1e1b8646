package engine

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
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
