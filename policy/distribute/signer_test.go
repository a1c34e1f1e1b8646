package distribute

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"
)

func signature(header, payload string) []byte {
	encode := base64.RawURLEncoding.EncodeToString
	text, _ := json.Marshal(map[string][]string{"signatures": {encode([]byte(header)) + "." + encode([]byte(payload)) + ".x"}})
	return text
}

func TestNamedKey(t *testing.T) {
	for name, test := range map[string]struct {
		text []byte
		want string
	}{
		"in the header":  {signature(`{"alg":"HS256","kid":"a"}`, `{"keyid":"b"}`), "a"},
		"in the payload": {signature(`{"alg":"HS256"}`, `{"keyid":"b"}`), "b"},
		"nowhere":        {signature(`{}`, `{}`), ""},
		"no object":      {signature(`[]`, `{}`), ""},
		"no token":       {[]byte(`{"signatures":["x"]}`), ""},
		"two tokens":     {[]byte(`{"signatures":["x.y.z","x.y.z"]}`), ""},
		"nothing":        {nil, ""},
	} {
		if got := namedKey(test.text); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func archiveOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for i := 0; i < len(files); i += 2 {
		if err := archive.WriteHeader(&tar.Header{Name: files[i], Typeflag: tar.TypeReg, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		archive.Write([]byte(files[i+1]))
	}
	archive.Close()
	zip.Close()
	return out.Bytes()
}

func TestSigners(t *testing.T) {
	var s signers
	two := &bundle.VerificationConfig{PublicKeys: map[string]*bundle.KeyConfig{"a": {}, "b": {}}}
	one := &bundle.VerificationConfig{PublicKeys: map[string]*bundle.KeyConfig{"a": {}}}
	s.see(archiveOf(t, "/.signatures.json", string(signature(`{"kid":"b"}`, `{}`)), "/.manifest", `{"revision":"1","metadata":{"sequence":1}}`))
	s.see(archiveOf(t, ".manifest", `{"revision":"2"}`, ".signatures.json", string(signature(`{"kid":"c"}`, `{}`))))
	first := &Arrived{Revision: "1", Metadata: map[string]any{"sequence": json.Number("1")}}
	for name, test := range map[string]struct {
		by   *bundle.VerificationConfig
		of   *Arrived
		want string
	}{
		"named by the signature":            {two, first, "b"},
		"named by the configuration":        {&bundle.VerificationConfig{KeyID: "a", PublicKeys: two.PublicKeys}, first, "a"},
		"of another sequence":               {two, &Arrived{Revision: "1"}, ""},
		"a key that there is not":           {two, &Arrived{Revision: "2"}, ""},
		"never seen, and there is only one": {one, &Arrived{Revision: "3"}, "a"},
	} {
		if got := s.of(test.by, test.of); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	for i := range 3 * maxSigners {
		s.see(archiveOf(t, ".manifest", `{"revision":"`+string(rune('a'+i))+`"}`))
	}
	if len(s.keys) != maxSigners || len(s.order) != maxSigners {
		t.Errorf("%d keys, %d in order", len(s.keys), len(s.order))
	}
}

func FuzzSigners(f *testing.F) {
	f.Add(archiveOf(f, ".manifest", `{"revision":"2"}`, ".signatures.json", string(signature(`{"kid":"c"}`, `{}`))), []byte("{}"))
	f.Add([]byte("\x1f\x8b"), signature(`{"alg":"HS256"}`, `{"keyid":"b"}`))
	f.Fuzz(func(_ *testing.T, bundle, signatures []byte) {
		var s signers
		s.see(bundle)
		namedKey(signatures)
	})
}
