package target

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// lookup maps a name as UTS 46 has it for look-ups (full-width and circled
// forms to plain ones, soft hyphens to nothing, and so on), with the Bidi rule.
// Hyphens anywhere are let through, since names such as r3---sn-abc.example are
// in use; and so is every ASCII character, underscores among them, since
// checkName knows better which of those to refuse.
var lookup = idna.New(
	idna.MapForLookup(),
	idna.BidiRule(),
	idna.CheckHyphens(false),
	idna.StrictDomainName(false),
)

// mapped is the host in ASCII and lower case.
func mapped(host string) (string, string) {
	if plain(host) {
		return strings.ToLower(host), ""
	}
	if !utf8.ValidString(host) {
		return "", "not UTF-8"
	}
	ascii, err := lookup.ToASCII(host)
	if err != nil {
		return "", "not a valid international domain name"
	}
	return ascii, ""
}

// plain reports whether IDNA would change nothing but the case.
func plain(host string) bool {
	for i := range len(host) {
		if host[i] >= utf8.RuneSelf {
			return false
		}
		// An A-label has to be checked: it starts with xn--, in any case.
		if (host[i] == 'x' || host[i] == 'X') && len(host) >= i+4 && strings.EqualFold(host[i:i+4], "xn--") {
			return false
		}
	}
	return true
}

// checkName refuses what is no domain name (RFC 1035 section 2.3.4, with
// underscores, which services use). A label with a hyphen at an edge is refused
// as well: resolvers do (Go's both, glibc's a leading one), and such a name is
// an option to programs that take it as an argument.
func checkName(name string) (Host, string) {
	if name == "" {
		return Host{}, "empty"
	}
	if len(name) > 253 {
		return Host{}, "name longer than 253 bytes"
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return Host{}, "empty label"
		case len(label) > 63:
			return Host{}, "label longer than 63 bytes"
		case label[0] == '-' || label[len(label)-1] == '-':
			return Host{}, "label with a hyphen at its edge"
		}
		for i := range len(label) {
			if c := label[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return Host{}, "character that no domain name has"
			}
		}
	}
	return Host{Name: name}, ""
}
