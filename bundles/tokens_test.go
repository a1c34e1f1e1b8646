package bundles_test

import (
	"encoding/base64"
	"testing"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy/identity"
)

// Whatever a stranger makes up that has a token's form, the policy says no, and
// does not fail: the functions of OPA's that it calls fail on much.
func FuzzTokensOfStrangers(f *testing.F) {
	for _, header := range []string{
		`{"alg":"EdDSA"}`, `{"alg":"RS256","kid":"1"}`, `{"alg":"HS256","typ":"JWT"}`, `{"alg":"none"}`, `{"alg":7}`,
		`{"alg":"EdDSA","kid":null}`, `{"alg":"EdDSA","crit":["a"]}`, `{"alg":"EdDSA","cty":"JWT"}`, `{"alg":"EdDSA","enc":"A"}`,
		`{"alg":"EdDSA","n":1e9999}`, `{"alg":"EdDSA","\ud800":"\ud800"}`, "{\"alg\":\"EdDSA\",\"\xff\":\"\xff\"}", `{"alg":"EdDSA","a":[[[[]]]]}`,
	} {
		f.Add(header, `{"sub":"ann","exp":9e99}`, "signature")
	}
	f.Add(`{"alg":"EdDSA"}`, `{"iss":7,"aud":{},"exp":"x","nbf":[]}`, "")
	e, err := engine.New(engine.Options{MemoSize: -1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(e.Close)
	c, err := distribute.Load([]string{"tokens"}, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	s, problems := e.Compile(c)
	if s == nil {
		f.Fatal(problems)
	}
	e.Activate(s)
	f.Fuzz(func(t *testing.T, header, claims, signature string) {
		part := base64.RawURLEncoding.EncodeToString
		token := identity.Token(part([]byte(header)) + "." + part([]byte(claims)) + "." + part([]byte(signature)))
		facts := policy.Facts{Credentials: policy.Credentials{Method: "password", Token: token}}
		if d := e.Decide(t.Context(), policy.Authenticate, &facts); d.Verdict != policy.Denied {
			t.Errorf("%s %s is answered by %s: %v", header, claims, d.Verdict, d.Err)
		}
	})
}
