package manage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// unique tells of the first key that an object has twice, in one JSON value that
// has been decoded already: encoding/json takes the last without a word, and what
// a reader of the body takes for its meaning may be the first (RFC 8259, section
// 4). Two keys are one where same makes one of them.
func unique(text []byte, same func(key string) string) error {
	// open are the objects and arrays that the token lies in. What is decoded already
	// is not nested deeper than encoding/json takes.
	var open []*nest
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber() // some are too large for Go, and nobody's fault here
	for {
		token, err := in.Token()
		if err != nil {
			return nil // the end
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			open = open[:len(open)-1]
			continue
		}
		if len(open) > 0 {
			within := open[len(open)-1]
			if key, ok := token.(string); ok && within.wantsKey() {
				if within.keys[same(key)] {
					return fmt.Errorf("%s is there twice", clip(place(open[:len(open)-1], key)))
				}
				within.keys[same(key)], within.key, within.keyed = true, key, true
				continue
			}
			within.next()
		}
		if delim, ok := token.(json.Delim); ok {
			n := new(nest)
			if delim == '{' {
				n.keys = map[string]bool{}
			}
			open = append(open, n)
		}
	}
}

// nest is an object or an array that is being read.
type nest struct {
	keys  map[string]bool // of an object, so far
	key   string          // the last one
	keyed bool            // its value comes next
	count int             // of an array: how many values there were
}

func (n *nest) wantsKey() bool { return n.keys != nil && !n.keyed }

// next tells that a value begins.
func (n *nest) next() {
	n.keyed = false
	n.count++
}

// place is where a key stands, such as users.ann.groups or bans[2].for.
func place(within []*nest, key string) string {
	var b strings.Builder
	for _, n := range within {
		if n.keys == nil {
			fmt.Fprintf(&b, "[%d]", n.count-1)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(n.key)
	}
	if b.Len() > 0 {
		b.WriteByte('.')
	}
	b.WriteString(key)
	return b.String()
}

// exact keeps a key as it is, for objects whose keys are names.
func exact(key string) string { return key }

// folded makes one of those keys that encoding/json takes for the same field of a
// struct: upper case or lower, and such as the Kelvin sign, which is a K.
func folded(key string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next // the smallest: they go round
			}
			r = next
		}
	}, key)
}
