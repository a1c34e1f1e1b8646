package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Ports is a range of ports, both ends in it: "40000-40100", or "40000" for that one. The zero value is any port that is
// free.
type Ports uint32 // the first above the last

// ParsePorts reads a range from its text; an empty one is the zero value.
func ParsePorts(text string) (Ports, error) {
	if text == "" {
		return 0, nil
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	from, errFrom := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	to, errTo := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if errFrom != nil || errTo != nil || from == 0 || to < from {
		return 0, errors.New("not a range of ports such as 40000-40100")
	}
	return Ports(from<<16 | to), nil
}

// Bounds are the first and the last port.
func (p Ports) Bounds() (first, last uint16) { return uint16(p >> 16), uint16(p) }

// String is the range as ParsePorts reads it.
func (p Ports) String() string {
	first, last := p.Bounds()
	switch {
	case p == 0:
		return ""
	case first == last:
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// MarshalText is [Ports.String] for encoders.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
