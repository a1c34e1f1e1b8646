package engine

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"sallyport/policy"
)

// judge_spelling.go knows of facts that may be anything how it is spelt: a rule
// that compares them with another spelling never holds, and a deny that never
// holds is an open door.

// spelling tells of a text that a fact, or a member of it, never is what it is
// instead; empty where that is not known. Otherwise ok is true.
type spelling func(text string) (instead string, ok bool)

// spellingOf is how a fact is spelt: nil where that is free. Of a list it is how
// its members are.
func spellingOf(f *policy.Fact) (how spelling, isList bool) {
	switch f.Type {
	case reflect.TypeFor[policy.IP]():
		return spellsIP, false
	case reflect.TypeFor[policy.Prefixes]():
		return spellsPrefix, true
	case reflect.TypeFor[policy.Suffixes]():
		return spellsSuffix, true
	}
	switch f.Spelled {
	case "host":
		return spellsHost, false
	case "country":
		return spellsCountry, false
	}
	return nil, false
}

// spellsHost is of names in lower-case ASCII without a trailing dot, and of addresses.
func spellsHost(text string) (string, bool) {
	if ip, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return ip.Unmap().String(), text == ip.Unmap().String()
	}
	if strings.ContainsAny(text, "*:/@ ") {
		return "", false
	}
	lower := strings.ToLower(strings.TrimSuffix(text, "."))
	if strings.ContainsFunc(lower, func(r rune) bool { return r > '~' }) {
		return "", false // it is there in the ASCII of IDNA
	}
	return lower, text == lower
}

// spellsSuffix is of a name and its parents, none of which begins with a dot.
func spellsSuffix(text string) (string, bool) {
	instead, _ := spellsHost(strings.TrimPrefix(strings.TrimPrefix(text, "*"), "."))
	return instead, text == instead
}

// spellsCountry is of ISO 3166-1 alpha-2, in capitals.
func spellsCountry(text string) (string, bool) {
	upper := strings.ToUpper(text)
	if len(text) != 2 || strings.Trim(upper, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", false
	}
	if upper == "UK" {
		return "GB", false
	}
	return upper, text == upper
}

func spellsIP(text string) (string, bool) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return "", false
	}
	return ip.Unmap().String(), text == ip.Unmap().String()
}

// spellsPrefix is of prefixes without bits behind them: of IPv4 all lengths, of IPv6 128 and
// those from 64 on down.
func spellsPrefix(text string) (string, bool) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(ip, ip.BitLen()).String(), false
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return "", false
	}
	masked := prefix.Masked()
	if masked.Addr().Is6() && masked.Bits() > 64 && masked.Bits() < 128 {
		return "", false
	}
	return masked.String(), text == masked.String()
}

// checkSpelling warns of a text that a fact, or a member of it, never is.
func (j *judging) checkSpelling(c *comparison, how spelling, verb, text string) {
	if instead, ok := how(text); !ok && text != "" {
		advice := ""
		if instead != "" && instead != text {
			advice = fmt.Sprintf(": want %q", instead)
		}
		j.warn(c.at, "%s %s %q%s", pathText("input", c.path), verb, text, advice)
	}
}

// headerNever says why a path below input.request.headers leads to nothing; empty:
// it may lead to something.
func headerNever(path []string) string {
	if len(path) < 3 || path[0] != "request" || path[1] != "headers" {
		return ""
	}
	name := strings.ToLower(path[2])
	switch {
	case slices.Contains([]string{"authorization", "proxy-authorization", "cookie"}, name):
		return fmt.Sprintf("input.request.headers never has %q: what clients authenticate by is kept from policies", path[2])
	case name != path[2]:
		return fmt.Sprintf("input.request.headers never has %q: names are in lower case, want %q", path[2], name)
	}
	return ""
}
