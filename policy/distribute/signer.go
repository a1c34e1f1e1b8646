package distribute

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// signers remembers which key the signatures of the latest bundles name. OPA
// verifies a signature and tells nobody of it; so this looks at what OPA is about to
// be given. What it says is true of bundles that OPA has verified, and of no others.
type signers struct {
	mu    sync.Mutex
	keys  map[string]string // by manifest
	order []string          // of the manifests, as they came
}

const (
	maxSigners   = 64
	maxSignature = 16 << 20 // bytes of a manifest, and of the signature, which lists every file
)

// see takes a bundle that was sent. What cannot be read is for OPA to refuse.
func (s *signers) see(packed []byte) {
	unzip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return
	}
	var manifest, signatures []byte
	for entries := tar.NewReader(unzip); manifest == nil || signatures == nil; {
		header, err := entries.Next()
		if err != nil {
			break
		}
		switch path.Clean("/" + header.Name) {
		case "/" + bundle.ManifestExt:
			manifest, err = io.ReadAll(io.LimitReader(entries, maxSignature))
		case "/.signatures.json":
			signatures, err = io.ReadAll(io.LimitReader(entries, maxSignature))
		}
		if err != nil {
			return
		}
	}
	var m struct {
		Revision string         `json:"revision"`
		Metadata map[string]any `json:"metadata"`
	}
	decoder := json.NewDecoder(bytes.NewReader(manifest))
	decoder.UseNumber()
	if len(manifest) > 0 && decoder.Decode(&m) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	of := manifestKey(m.Revision, m.Metadata)
	if _, known := s.keys[of]; !known {
		if len(s.order) == maxSigners {
			delete(s.keys, s.order[0])
			s.order = s.order[1:]
		}
		s.order = append(s.order, of)
	}
	if s.keys == nil {
		s.keys = map[string]string{}
	}
	s.keys[of] = namedKey(signatures)
}

func manifestKey(revision string, metadata map[string]any) string {
	text, err := json.Marshal(metadata)
	if err != nil || len(metadata) == 0 {
		text = nil
	}
	return revision + "\x00" + string(text)
}

// namedKey is the id of the key that .signatures.json names, read as OPA does: the
// header's kid, else the payload's keyid. Empty: it names none.
func namedKey(signatures []byte) string {
	var file bundle.SignaturesConfig
	if json.Unmarshal(signatures, &file) != nil || len(file.Signatures) != 1 {
		return ""
	}
	parts := strings.Split(file.Signatures[0], ".")
	if len(parts) != 3 {
		return ""
	}
	var header struct {
		ID string `json:"kid"`
	}
	var payload struct {
		ID string `json:"keyid"`
	}
	for i, into := range []any{&header, &payload} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(text, into) != nil {
			return ""
		}
	}
	if header.ID != "" {
		return header.ID
	}
	return payload.ID
}

// of is the id of the key by which OPA has verified a bundle: the one that the
// configuration names, else the one that the signature does where it is among
// those that there are, else the only one there is. Empty: it is not known, as of a
// bundle that was not sent since the start.
func (s *signers) of(v *bundle.VerificationConfig, a *Arrived) string {
	if v.KeyID != "" {
		return v.KeyID
	}
	s.mu.Lock()
	named := s.keys[manifestKey(a.Revision, a.Metadata)]
	s.mu.Unlock()
	if v.PublicKeys[named] != nil {
		return named
	}
	if len(v.PublicKeys) == 1 {
		for id := range v.PublicKeys {
			return id
		}
	}
	return ""
}
