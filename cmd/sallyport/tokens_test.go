package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// provider signs tokens as an identity provider would.
type provider struct {
	edwards ed25519.PrivateKey
	rsa     *rsa.PrivateKey
	now     time.Time
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &provider{edwards, key, time.Now()}
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// keySet is the provider's, with other keys in it.
func (p *provider) keySet(more ...string) string {
	exponent := big.NewInt(int64(p.rsa.E)).Bytes()
	return `{"keys": [` + strings.Join(append(more,
		fmt.Sprintf(`{"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": %q}`, base64url(p.edwards.Public().(ed25519.PublicKey))),
		fmt.Sprintf(`{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "r", "n": %q, "e": %q}`, base64url(p.rsa.N.Bytes()), base64url(exponent)),
		`{"kty": "RSA", "use": "enc", "kid": "other", "n": "AQAB", "e": "AQAB"}`), ", ") + `]}`
}

// claims are good ones with changes: name, value, and so on; nil takes one out.
func (p *provider) claims(changes ...any) string {
	claims := map[string]any{
		"iss": "https://idp.example", "aud": "sallyport", "sub": "ann", "groups": []string{"dev"}, "exp": p.now.Unix() + 600,
	}
	for i := 0; i < len(changes); i += 2 {
		if name := changes[i].(string); changes[i+1] == nil {
			delete(claims, name)
		} else {
			claims[name] = changes[i+1]
		}
	}
	text, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// tokenOf is a token whose signature is made of all before it.
func tokenOf(header, claims string, by func(text []byte) []byte) string {
	text := base64url([]byte(header)) + "." + base64url([]byte(claims))
	return text + "." + base64url(by([]byte(text)))
}

func (p *provider) eddsa(text []byte) []byte { return ed25519.Sign(p.edwards, text) }

func (p *provider) rs256(text []byte) []byte {
	sum := sha256.Sum256(text)
	signature, err := rsa.SignPKCS1v15(nil, p.rsa, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return signature
}

func hs256(key []byte) func(text []byte) []byte {
	return func(text []byte) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write(text)
		return mac.Sum(nil)
	}
}

// publicKeys are the RSA key in the forms in which it may be mistaken for a secret.
func (p *provider) publicKeys(t *testing.T) (pemText, der []byte) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(p.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), der
}

// tokenWorld is a sallyport that runs the example with a provider's keys. All
// names stand for this machine, where there is a web server and an echo.
type tokenWorld struct {
	*process
	*provider
	echo   *echo
	web    string // its port
	dir    string // of the policy
	events chan string
}

func startTokens(t *testing.T, edits ...edit) *tokenWorld {
	t.Helper()
	site, _ := origin(t)
	w := &tokenWorld{
		provider: newProvider(t), echo: serveEcho(t, "127.0.0.1:0"), web: site[strings.LastIndexByte(site, ':')+1:],
		dir: filepath.Join(t.TempDir(), "tokens"), events: make(chan string, 1),
	}
	if err := os.CopyFS(w.dir, os.DirFS("../../bundles/tokens")); err != nil {
		t.Fatal(err)
	}
	for _, e := range append(edits, edit{"tokens/data.yaml", "ports: [443]", fmt.Sprintf("ports: [443, %d, %s]", w.echo.port, w.web)}) {
		path := filepath.Join(w.dir, filepath.FromSlash(e.file))
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), e.old) {
			t.Fatalf("%s has no %q: %v", e.file, e.old, err)
		}
		write(t, path, strings.Replace(string(text), e.old, e.new, 1))
	}
	w.publish(t, w.keySet())
	os.Remove(filepath.Join(w.dir, "sallyport/authenticate/authenticate_test.rego")) // it knows nothing of the edits
	names := serveNames(t, map[string][]string{"*": {"127.0.0.1"}})
	w.process = start(t, "--policy", w.dir, "--set", "dns.servers="+names.addr, "--data", settings(t, loopback),
		"--set", "policy.opa.decision_logs.console=true", "--set", "log.level=debug")
	go func() {
		text, _ := io.ReadAll(w.stdout)
		w.events <- string(text)
	}()
	return w
}

// publish replaces the key set.
func (w *tokenWorld) publish(t *testing.T, keys string) {
	t.Helper()
	next := write(t, filepath.Join(t.TempDir(), "next"), keys)
	if err := os.Rename(next, filepath.Join(w.dir, "tokens/jwks/data.json")); err != nil {
		t.Fatal(err)
	}
}

// told is all that the program has said by its end: log and decision log.
func (w *tokenWorld) told(t *testing.T) string {
	t.Helper()
	w.terminate(t)
	var b strings.Builder
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, entry := range w.log {
		fmt.Fprintln(&b, entry["raw"])
	}
	return b.String() + <-w.events
}

// Tokens by every way that a client has: SOCKS5 where they fit in, and HTTP.
func TestTokensAsPasswords(t *testing.T) {
	t.Parallel()
	w := startTokens(t)
	short := tokenOf(`{"alg":"EdDSA"}`, w.claims(), w.eddsa)
	if len(short) > 255 {
		t.Fatalf("an EdDSA token with few claims has %d bytes, more than RFC 1929 takes", len(short))
	}
	groups := []string{"dev"}
	for i := range 400 {
		groups = append(groups, fmt.Sprintf("group %d", i))
	}
	long := tokenOf(`{"alg":"RS256","typ":"JWT","kid":"r"}`, w.claims("groups", groups, "aud", []string{"wiki", "sallyport"}), w.rs256)
	to := "http://api.github.com:" + w.web
	for name, args := range map[string][]string{
		"SOCKS5":        {"-x", "socks5h://any:" + short + "@" + w.addr},
		"Basic":         {"-p", "-x", "http://any:" + short + "@" + w.addr},
		"Basic, RS256":  {"-p", "-x", "http://any:" + long + "@" + w.addr},
		"Bearer":        {"-p", "-x", "http://" + w.addr, "--proxy-header", "Proxy-Authorization: Bearer " + short},
		"Bearer, RS256": {"-p", "-x", "http://" + w.addr, "--proxy-header", "Proxy-Authorization: Bearer " + long},
	} {
		if out, code := curl(t, append(args, to)...); code != 0 || out != "hello 0" {
			t.Errorf("%s: curl exits %d and prints %q", name, code, out)
		}
	}
	_, port, _ := net.SplitHostPort(w.addr)
	// By SOCKS5, PySocks sends no password of more than 127 bytes as it should.
	out, err := exec.Command(python(t, "socks"), "-c", `
import socks, sys
s = socks.socksocket()
s.set_proxy(socks.HTTP, "127.0.0.1", int(sys.argv[1]), username="any", password=sys.argv[3])
s.settimeout(20)
s.connect(("api.github.com", int(sys.argv[2])))
s.sendall(b"hello")
print(s.recv(5))
`, port, fmt.Sprint(w.echo.port), long).CombinedOutput()
	if err != nil || string(out) != "b'hello'\n" {
		t.Errorf("PySocks: %v\n%s", err, out)
	}

	// Who it is stands in the record, and what its groups are decides.
	if r := w.sessionOf(t, "api.github.com"); r["user.name"] != "ann" {
		t.Errorf("the record is %v", r["raw"])
	}
	staff := tokenOf(`{"alg":"EdDSA"}`, w.claims("groups", []string{"staff"}), w.eddsa)
	if out, _ := curl(t, "-p", "-i", "-x", "http://any:"+staff+"@"+w.addr, to); !strings.Contains(out, " 403 ") || !strings.Contains(out, "api.github.com is on no list of ann (staff)") {
		t.Errorf("a name of another group's is answered by %q", out)
	}
	told := w.told(t)
	for _, token := range []string{short, long, staff} {
		if strings.Contains(told, token) {
			t.Errorf("a token is told: %s", told)
		}
	}
}

// What is not signed with a key of the provider's, for us, now, is the password
// of nobody, by whatever way it comes and whosever name is with it.
func TestTokensThatAreDenied(t *testing.T) {
	t.Parallel()
	w := startTokens(t)
	other := newProvider(t)
	text, der := w.publicKeys(t)
	good := w.claims()
	now := time.Now().Unix()
	eddsa := func(changes ...any) string { return tokenOf(`{"alg":"EdDSA"}`, w.claims(changes...), w.eddsa) }
	for name, token := range map[string]string{
		"alg none":              tokenOf(`{"alg":"none"}`, good, func([]byte) []byte { return []byte("none") }),
		"alg none, signed":      tokenOf(`{"alg":"none"}`, good, w.eddsa),
		"no signature":          strings.TrimRight(tokenOf(`{"alg":"none"}`, good, func([]byte) []byte { return nil }), "."),
		"an empty signature":    tokenOf(`{"alg":"none"}`, good, func([]byte) []byte { return nil }),
		"no algorithm":          tokenOf(`{"kid":"e"}`, good, w.eddsa),
		"another one's key":     tokenOf(`{"alg":"EdDSA"}`, good, other.eddsa),
		"another one's, by kid": tokenOf(`{"alg":"EdDSA","kid":"e"}`, good, other.eddsa),
		"another one's RSA":     tokenOf(`{"alg":"RS256","kid":"r"}`, good, other.rs256),
		"its own key in it":     tokenOf(fmt.Sprintf(`{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":%q}}`, base64url(other.edwards[32:])), good, other.eddsa),
		"HS256 with the PEM":    tokenOf(`{"alg":"HS256","kid":"r"}`, good, hs256(text)),
		"HS256 with the DER":    tokenOf(`{"alg":"HS256","kid":"r"}`, good, hs256(der)),
		"HS256 with the x":      tokenOf(`{"alg":"HS256","kid":"e"}`, good, hs256(w.edwards[32:])),
		"HS256 with the set":    tokenOf(`{"alg":"HS256"}`, good, hs256([]byte(w.keySet()))),
		"HS256 with nothing":    tokenOf(`{"alg":"HS256","kid":"nobody"}`, good, hs256(nil)),
		"the key's other alg":   tokenOf(`{"alg":"RS256","kid":"e"}`, good, w.eddsa),
		"the alg in capitals":   tokenOf(`{"alg":"EDDSA"}`, good, w.eddsa),
		"PS256":                 tokenOf(`{"alg":"PS256","kid":"r"}`, good, w.rs256),
		"expired":               eddsa("exp", now-1),
		"expired, a fraction":   eddsa("exp", float64(now)-0.5),
		"no expiry":             eddsa("exp", nil),
		"an expiry in words":    tokenOf(`{"alg":"EdDSA"}`, strings.Replace(good, `"exp":`, `"expires":`, 1), w.eddsa),
		"not valid yet":         eddsa("nbf", now+600),
		"another audience":      eddsa("aud", "wiki"),
		"other audiences":       eddsa("aud", []string{"wiki", "sallyport2"}),
		"no audience":           eddsa("aud", nil),
		"another issuer":        eddsa("iss", "https://idp.example.evil"),
		"no issuer":             eddsa("iss", nil),
		"nobody":                eddsa("sub", ""),
		"a claim twice":         tokenOf(`{"alg":"EdDSA"}`, `{"sub":"root",`+good[1:], w.eddsa),
		"the algorithm twice":   tokenOf(`{"alg":"none","alg":"EdDSA"}`, good, w.eddsa),
		"a header of our own":   tokenOf(`{"alg":"EdDSA","crit":["sallyport"],"sallyport":1}`, good, w.eddsa),
		"an algorithm of 7":     tokenOf(`{"alg":7}`, good, w.eddsa),
		"a token in a token":    tokenOf(`{"alg":"EdDSA","cty":"JWT"}`, good, w.eddsa),
		"encrypted":             tokenOf(`{"alg":"EdDSA","enc":"A256GCM"}`, good, w.eddsa),
		"other claims":          swapped(eddsa(), w.claims("sub", "root")),
		"one bit":               flipped(eddsa()),
		"no token":              "hunter2",
	} {
		to := "http://api.github.com:" + w.web
		for way, args := range map[string][]string{
			"Basic":  {"-x", "http://ann:" + token + "@" + w.addr},
			"Bearer": {"-x", "http://" + w.addr, "--proxy-header", "Proxy-Authorization: Bearer " + token},
		} {
			if out, _ := curl(t, append(args, "-p", "-o", os.DevNull, "-w", "%{http_connect}", to)...); !strings.HasSuffix(out, "407") {
				t.Errorf("%s by %s: %q", name, way, out)
			}
		}
		if len(token) > 255 {
			continue
		}
		if out, code := curl(t, "-x", "socks5h://ann:"+token+"@"+w.addr, to); code != 97 || !strings.Contains(out, "rejected") {
			t.Errorf("%s by SOCKS5: curl exits %d and prints %q", name, code, out)
		}
	}
	if out, code := curl(t, "-x", "socks5h://ann:"+eddsa()+"@"+w.addr, "http://api.github.com:"+w.web); code != 0 {
		t.Errorf("the right one: %q", out)
	}
	// A stranger makes no policy fail, and so raises no alarm.
	if told := w.told(t); strings.Contains(told, `"outcome":"fault"`) || strings.Contains(told, "policy fault") {
		t.Errorf("a token makes a fault: %s", told)
	}
}

// swapped is a token with other claims.
func swapped(token, claims string) string {
	parts := strings.Split(token, ".")
	return parts[0] + "." + base64url([]byte(claims)) + "." + parts[2]
}

// flipped is a token with one bit of its signature changed.
func flipped(token string) string {
	parts := strings.Split(token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		panic(err)
	}
	signature[7] ^= 1
	return parts[0] + "." + parts[1] + "." + base64url(signature)
}

// A rule that copies a token into whatever it may give tells it to nobody: not
// to a log, an event, a metric or the management API, nor to the client, nor to
// the stages after authenticate.
func TestATokenThatIsCopiedIsRedacted(t *testing.T) {
	t.Parallel()
	const everywhere = `
reason contains sprintf("it shows %s, %v", [input.credentials.token, io.jwt.decode(input.credentials.token)[2]]) if {
	input.credentials.token != ""
	print("shown:", input.credentials.token)
}

reason contains input.credentials.token

warn contains sprintf("signed %s", [split(input.credentials.token, ".")[2]]) if input.credentials.token != ""

labels := {"token": input.credentials.token, input.credentials.token: "key"}

explain := true
`
	w := startTokens(t,
		edit{"sallyport/authenticate/authenticate.rego", "explain := true\n", everywhere},
		edit{"sallyport/authenticate/authenticate.rego", `"attributes": {`, `"attributes": {"of": [{"token": input.credentials.token}], `},
		edit{"sallyport/authenticate/authenticate.rego", `"name": _claims.sub`, `"name": sprintf("%s %s", [_claims.sub, input.credentials.token])`},
		edit{"sallyport/route/route.rego", "explain := true\n", "explain := true\n\nwarn contains json.marshal(input.identity)\n"})
	good := tokenOf(`{"alg":"EdDSA"}`, w.claims(), w.eddsa)
	bad := tokenOf(`{"alg":"EdDSA"}`, w.claims("exp", 1000000000), w.eddsa)
	live := dialDoor(t, w.addr).say("\x05\x01\x02" + login("any", good) + connectTo("api.github.com", w.echo.port)).hear("\x05\x02\x01\x00\x05\x00\x00\x01")
	var told strings.Builder
	for _, path := range []string{"/v1/sessions", "/v1/policy", "/metrics"} {
		_, answer := w.get(t, path)
		told.WriteString(answer["body"].(string))
	}
	if !strings.Contains(told.String(), "ann [redacted]") {
		t.Errorf("the management API does not tell who is there: %s", told.String())
	}
	live.Close()
	for _, token := range []string{good, bad} {
		out, _ := curl(t, "-p", "-i", "-x", "http://any:"+token+"@"+w.addr, "http://example.com:"+w.web)
		told.WriteString(out)
		said, _ := dialDoor(t, w.addr).say("\x05\x01\x02" + login("any", token) + connectTo("example.com", w.echo.port)).rest()
		told.WriteString(said)
	}
	text := w.told(t)
	for _, expected := range []string{`it shows [redacted], [redacted]`, `signed [redacted]`, `"token":"[redacted]"`, `{\"token\":\"[redacted]\"}`, "policy print"} {
		if !strings.Contains(text, expected) {
			t.Errorf("nothing like %q is told in: %s", expected, text)
		}
	}
	told.WriteString(text)
	for _, token := range []string{good, bad} {
		signature := strings.Split(token, ".")[2]
		raw, err := base64.RawURLEncoding.DecodeString(signature)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{token, signature, hex.EncodeToString(raw), base64.StdEncoding.EncodeToString([]byte("any:" + token))} {
			if at := strings.Index(told.String(), secret); at >= 0 {
				t.Errorf("a token is told: %s", told.String()[max(0, at-300):at+len(secret)])
			}
		}
	}
}

// Whoever has shown a token stays when the keys change, though it is no user of
// the directory, and until its token expires.
func TestSessionsOfTokens(t *testing.T) {
	t.Parallel()
	w := startTokens(t)
	shown := func(token string) *talk {
		return dialDoor(t, w.addr).say("\x05\x01\x02" + login("any", token) + connectTo("api.github.com", w.echo.port))
	}
	token := tokenOf(`{"alg":"EdDSA","kid":"e"}`, w.claims(), w.eddsa)
	stays := shown(token).hear("\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
	io.CopyN(io.Discard, stays, 2) // the port
	stays.say("hello").hear("hello")

	// The next key beside the present one, and then alone.
	next := newProvider(t)
	w.publish(t, w.keySet(fmt.Sprintf(`{"kty": "OKP", "crv": "Ed25519", "kid": "next", "x": %q}`, base64url(next.edwards[32:]))))
	w.wait(t, 0, askedAgain)
	shown(token).hear("\x05\x02\x01\x00").Close()
	shown(tokenOf(`{"alg":"EdDSA","kid":"next"}`, w.claims(), next.eddsa)).hear("\x05\x02\x01\x00").Close()
	w.publish(t, next.keySet())
	if r := w.wait(t, 1, askedAgain); r["cut"] != 0.0 || r["faults"] != nil {
		t.Errorf("new keys are followed as %v", r["raw"])
	}
	shown(token).hear("\x05\x02\x01\x01")
	stays.say("still").hear("still")

	stays.Close()
	until := fmt.Sprintf(`"session_limits":{"until":%d}`, (w.now.Unix()+600)*1e9)
	if told := w.told(t); strings.Count(told, until) < 3 { // when it began, and as often as it was asked about again
		t.Errorf("%s is not in %s", until, told)
	}
}
