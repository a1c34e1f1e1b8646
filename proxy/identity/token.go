package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
)

const (
	maxToken   = 16 << 10 // bytes of a token that enters an input
	maxNesting = 32       // of objects and arrays in its claims
)

// Token returns the password if it has the form of a signed JWT (RFC 7519 in
// the compact serialisation of RFC 7515, section 7.1): at most 16 KiB, three
// parts in base64url, of which the first two are JSON objects that name nothing
// twice, and the first is a JOSE header (isHeader). Otherwise it returns "".
// Nothing is verified; that is the policy's. But its functions fail on what is
// none of this, and a stranger is not to make a policy fail.
func Token(password string) string {
	if len(password) > maxToken || strings.Count(password, ".") != 2 {
		return ""
	}
	parts := strings.Split(password, ".")
	if parts[2] == "" {
		return ""
	}
	var objects [2]map[string]json.RawMessage
	for i, part := range parts {
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") { // the decoder skips these
			return ""
		}
		if i == 2 {
			break
		}
		if json.Unmarshal(decoded, &objects[i]) != nil || objects[i] == nil || !isUnique(decoded) {
			return ""
		}
	}
	if !isHeader(objects[0]) {
		return ""
	}
	return password
}

// isHeader tells whether the parameters of RFC 7515, section 4.1, that a header
// has are of their types, and that it is the header of signed claims: neither of
// what is encrypted nor of a token within the token.
func isHeader(header map[string]json.RawMessage) bool {
	texts := map[string]string{}
	for _, name := range []string{"alg", "kid", "typ", "cty"} {
		var text *string
		if raw, ok := header[name]; ok {
			if json.Unmarshal(raw, &text) != nil || text == nil {
				return false
			}
			texts[name] = *text
		}
	}
	if raw, ok := header["crit"]; ok {
		var names []*string
		if json.Unmarshal(raw, &names) != nil || len(names) == 0 {
			return false
		}
		for _, name := range names {
			if name == nil {
				return false
			}
		}
	}
	_, encrypted := header["enc"]
	return texts["alg"] != "" && !encrypted && !strings.EqualFold(texts["cty"], "JWT")
}

// isUnique tells whether no object in a JSON text has a name twice (RFC 7519,
// section 4): which of the two holds would be for each reader to guess.
func isUnique(text []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // of any size
	return uniqueBelow(decoder, maxNesting)
}

func uniqueBelow(decoder *json.Decoder, levels int) bool {
	token, err := decoder.Token()
	if err != nil || levels == 0 {
		return false
	}
	delimiter, ok := token.(json.Delim)
	if !ok {
		return true
	}
	seen := map[any]bool{}
	for decoder.More() {
		if delimiter == '{' {
			name, err := decoder.Token()
			if err != nil || seen[name] {
				return false
			}
			seen[name] = true
		}
		if !uniqueBelow(decoder, levels-1) {
			return false
		}
	}
	_, err = decoder.Token() // that which closes it
	return err == nil
}
