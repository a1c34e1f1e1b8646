package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size. In text it is a number of bytes or a number and a unit: B, KB, MB, GB, TB (powers of 1000), KiB, MiB,
// GiB, TiB (powers of 1024), as in "1GiB" and "1.5 MB".
type Bytes int64

// units from the largest, each way; B last, since the others end in it as well.
func units() []struct {
	name  string
	bytes int64
} {
	return []struct {
		name  string
		bytes int64
	}{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
	}
}

// ParseBytes reads a size from its text.
func ParseBytes(text string) (Bytes, error) {
	number, factor := text, int64(1)
	for _, unit := range units() {
		if rest, found := strings.CutSuffix(text, unit.name); found {
			number, factor = strings.TrimRight(rest, " "), unit.bytes
			break
		}
	}
	if number == "" || strings.Trim(number, "0123456789.") != "" {
		return 0, errors.New(`not a size such as 1GiB or 10MiB`)
	}
	if whole, err := strconv.ParseInt(number, 10, 64); err == nil {
		if whole > math.MaxInt64/factor {
			return 0, errors.New("too large a size")
		}
		return Bytes(whole * factor), nil
	}
	fraction, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, errors.New(`not a size such as 1GiB or 10MiB`)
	}
	if fraction *= float64(factor); fraction >= math.MaxInt64 {
		return 0, errors.New("too large a size")
	}
	return Bytes(fraction), nil
}

// String is the size in the largest binary unit that holds it as a whole number, such as "1GiB" or "1500B".
func (b Bytes) String() string {
	for _, unit := range units() {
		if unit.bytes&(unit.bytes-1) == 0 && b != 0 && int64(b)%unit.bytes == 0 {
			return strconv.FormatInt(int64(b)/unit.bytes, 10) + unit.name
		}
	}
	return "0B"
}

// MarshalText is [Bytes.String] for encoders.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
