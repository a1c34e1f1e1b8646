package http

import (
	"encoding/base64"
	"strings"
)

// Authorization is what the client presents in Proxy-Authorization (RFC 9110
// section 11.7.2): the scheme in lower case, and of "basic" (RFC 7617) user and
// password, of "bearer" (RFC 6750 section 2.1) the token. Other schemes are
// named, and their credentials left alone. User and password are kept byte for
// byte; the first colon ends the user.
//
// An error is an *Error: 400 for more than one field, 407 for one that cannot
// be read.
func (req *Request) Authorization() (scheme, user, password, token string, present bool, err error) {
	fields := req.Header["proxy-authorization"]
	if len(fields) == 0 {
		return "", "", "", "", false, nil
	}
	if len(fields) > 1 {
		return "", "", "", "", true, malformed("more than one Proxy-Authorization")
	}
	scheme, credentials, _ := strings.Cut(fields[0], " ")
	scheme, credentials = strings.ToLower(scheme), strings.TrimLeft(credentials, " ")
	switch scheme {
	case "basic":
		pair, err := base64.StdEncoding.DecodeString(credentials)
		user, password, ok := strings.Cut(string(pair), ":")
		if err != nil || !ok {
			return scheme, "", "", "", true, &Error{Status: 407, Reason: "malformed Basic credentials"}
		}
		return scheme, user, password, "", true, nil
	case "bearer":
		if !token68(credentials) {
			return scheme, "", "", "", true, &Error{Status: 407, Reason: "malformed Bearer token"}
		}
		return scheme, "", "", credentials, true, nil
	}
	return scheme, "", "", "", true, nil
}

// token68 is the syntax of RFC 9110 section 11.2.
func token68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/", c) >= 0) {
			return false
		}
	}
	return s != ""
}
