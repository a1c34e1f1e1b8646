package sallyport.authenticate_test

import data.sallyport.authenticate

# Its public half is the x. It is of use to these tests only.
_key := {
	"kty": "OKP",
	"crv": "Ed25519",
	"kid": "1",
	"x": "Jy4GA9blZu1EmBcVbmfGFUixxvRIOZJxveS5OnxxhT8",
	"d": "2tk9v2Oopck_DJ_Jdgzm-AjtxWLskN97LVb7l8vWOtM",
}

_tokens := {
	"issuer": "https://idp.example",
	"audience": "sallyport",
	"jwks": {"keys": [object.remove(_key, ["d"]), {"kty": "EC", "crv": "secp256k1", "x": "", "y": ""}]},
}

_now := floor(time.now_ns() / 1000000000)

_claims := {
	"iss": "https://idp.example",
	"aud": "sallyport",
	"sub": "ann",
	"exp": _now + 60,
	"groups": ["dev", "staff"],
}

_with(changes) := object.union(_claims, changes)

_token(claims) := {"credentials": {
	"username": "somebody",
	"token": io.jwt.encode_sign({"alg": "EdDSA", "kid": "1"}, claims, _key),
}}

test_the_claims_say_who_it_is if {
	facts := _token(_claims)
	authenticate.allow with input as facts with data.tokens as _tokens
	authenticate.reason == set() with input as facts with data.tokens as _tokens
	authenticate.identity == {"name": "ann", "groups": ["dev", "staff"], "attributes": {"expires": _now + 60}}
		with input as facts
		with data.tokens as _tokens
}

test_one_of_several_audiences if {
	authenticate.allow with input as _token(_with({"aud": ["wiki", "sallyport"]})) with data.tokens as _tokens
}

test_groups_are_texts if {
	every groups in [null, "dev", 7, [], [7, {}]] {
		facts := _token(_with({"groups": groups}))
		authenticate.allow with input as facts with data.tokens as _tokens
		authenticate.identity.groups == [] with input as facts with data.tokens as _tokens
	}
	facts := _token(object.remove(_claims, ["groups"]))
	authenticate.identity.groups == [] with input as facts with data.tokens as _tokens
}

test_the_end_can_be_told if {
	facts := _token(_with({"exp": 253402300799}))
	authenticate.identity.attributes.expires == 9223372036 with input as facts with data.tokens as _tokens
}

test_other_claims_are_denied if {
	every changes in [
		{"iss": "https://other.example"},
		{"aud": "wiki"},
		{"aud": []},
		{"exp": _now - 1},
		{"nbf": _now + 60},
		{"sub": ""},
		{"sub": 7},
	] {
		facts := _token(_with(changes))
		not authenticate.allow with input as facts with data.tokens as _tokens
		authenticate.reason == {"the token is not valid, or is not one of https://idp.example for sallyport"}
			with input as facts
			with data.tokens as _tokens
	}
	every name in ["iss", "aud", "sub", "exp"] {
		not authenticate.allow with input as _token(object.remove(_claims, [name])) with data.tokens as _tokens
	}
}

test_without_a_token_it_is_denied if {
	facts := {"credentials": {"username": "ann", "token": ""}}
	not authenticate.allow with input as facts with data.tokens as _tokens
	authenticate.reason == {"show a token of https://idp.example as the password"} with input as facts
		with data.tokens as _tokens
}

test_without_its_key_it_is_denied if {
	every name in ["issuer", "audience", "jwks"] {
		not authenticate.allow with input as _token(_claims) with data.tokens as object.remove(_tokens, [name])
	}
	other := object.union(_tokens, {"jwks": data.tokens.jwks})
	not authenticate.allow with input as _token(_claims) with data.tokens as other
}
