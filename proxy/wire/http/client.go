package http

import "strings"

// TooLarge tells a message whose header block exceeds MaxHeader or MaxFields
// from one that has something else wrong.
func (e *Error) TooLarge() bool { return e.Reason == errTooLarge.Error() }

// ProxyError is the error type that an answer gives in Proxy-Status (RFC 9209
// section 2.1.1), such as connection_refused: that of the proxy which is nearest
// to the target, since it knows best. It is empty where none is given. What is
// no token is not returned.
func (res *Response) ProxyError() string {
	for _, value := range res.Header["proxy-status"] {
		for proxy := range members(value) {
			for i, parameter := range splitOutsideQuotes(proxy, ';') {
				name, kind, ok := strings.Cut(strings.Trim(parameter, " \t"), "=")
				if i > 0 && ok && name == "error" && isErrorType(kind) {
					return kind
				}
			}
		}
	}
	return ""
}

func members(value string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, member := range splitOutsideQuotes(value, ',') {
			if !yield(member) {
				return
			}
		}
	}
}

// splitOutsideQuotes cuts a structured field apart where the separator is not
// within a string (RFC 8941 section 3.3.3).
func splitOutsideQuotes(s string, separator byte) []string {
	var parts []string
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && s[i] == separator:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}

func isErrorType(s string) bool {
	const longest = 64
	return s != "" && len(s) <= longest && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}
