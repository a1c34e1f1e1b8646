package identity

import (
	"encoding/base64"
	"encoding/json"
	"strings"
)

// maxToken bounds, in bytes, the tokens that enter an input.
const maxToken = 16 << 10

// Token returns the password if it has the form of a signed JWT (RFC 7519 in
// the compact serialisation of RFC 7515, section 7.1): at most 16 KiB, three
// parts in base64url, the first two of which are JSON objects. Otherwise it
// returns "". Nothing is verified; that is the policy's.
func Token(password string) string {
	if len(password) > maxToken {
		return ""
	}
	parts := strings.Split(password, ".")
	if len(parts) != 3 || parts[2] == "" {
		return ""
	}
	for i, part := range parts {
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") { // the decoder skips these
			return ""
		}
		if i < 2 && !isObject(decoded) {
			return ""
		}
	}
	return password
}

func isObject(text []byte) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(text, &object) == nil && object != nil
}
