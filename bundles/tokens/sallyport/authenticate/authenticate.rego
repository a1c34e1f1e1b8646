# METADATA
# title: Authenticate those who show a token of the identity provider
# description: |
#   The token comes as the password of SOCKS5 or HTTP, or as HTTP's Bearer. Its
#   claims say who it is; the name that came with it is not looked at.
# schemas:
#   - input: schema.authenticate
package sallyport.authenticate

default allow := false

allow if _claims

identity := {
	"name": _claims.sub,
	"groups": [group | some group in _claims.groups; is_string(group)],
	"attributes": {"expires": min([_claims.exp, _last])},
}

explain := true

reason contains sprintf("show a token of %s as the password", [data.tokens.issuer]) if {
	input.credentials.token == ""
}

reason contains sprintf("the token is not valid, or is not one of %s for %s", [data.tokens.issuer, data.tokens.audience]) if {
	input.credentials.token != ""
	not _claims
}

# A token's own header says by which algorithm it is to be verified. These are
# those that it may name: neither "none", nor one for which a public key would be
# a shared secret.
_algorithms := {"EdDSA", "RS256"}

# The claims of a token that is signed, for us, and valid now: the clock is that
# of the moment, and not input.time, before which a new token is not valid yet.
_claims := claims if {
	input.credentials.token != ""
	some algorithm in _algorithms
	[valid, _, claims] := io.jwt.decode_verify(input.credentials.token, {
		"cert": _keys,
		"alg": algorithm,
		"iss": data.tokens.issuer,
		"aud": data.tokens.audience,
	})
	valid

	# Times are looked at where a token has them. One that never ends is refused,
	# and so is one of nobody.
	is_number(claims.exp)
	is_string(claims.sub)
	claims.sub != ""
}

# What else the provider's key set has is none of ours.
_keys := json.marshal({"keys": [key |
	some key in data.tokens.jwks.keys
	key.kty in {"OKP", "RSA"}
	object.get(key, "use", "sig") == "sig"
]})

# The last second that session_limits.until can tell, in the year 2262.
_last := 9223372036
