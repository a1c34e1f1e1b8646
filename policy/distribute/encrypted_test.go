package distribute

import (
	"bytes"
	"errors"
	"maps"
	"path/filepath"
	"testing"
)

// turn stands for age: what it decrypts is turned around.
func turn(content []byte) ([]byte, error) {
	plain, sealed := bytes.CutPrefix(content, []byte("sealed:"))
	if !sealed {
		return nil, errors.New("is not sealed")
	}
	for i, j := 0, len(plain)-1; i < j; i, j = i+1, j-1 {
		plain[i], plain[j] = plain[j], plain[i]
	}
	return plain, nil
}

func sealed(text string) string {
	turned, _ := turn([]byte("sealed:" + text))
	return "sealed:" + string(turned)
}

func TestLoadDecryptsData(t *testing.T) {
	root := folder(t, map[string]string{
		"p/a.rego":               rego,
		"p/teams/data.yaml.age":  sealed("members: [a]\n"),
		"p/teams/users.json.age": "not read, as users.json would not be",
		"named.json.age":         sealed(`{"named": 1}`),
		"users.yml.age":          sealed("users: {a: {}}\n"),
	})
	at := func(name string) string { return filepath.Join(root, name) }
	c, err := Load([]string{at("p"), at("named.json.age")}, []string{at("users.yml.age")}, turn)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, d := range c.Documents {
		got[d.Path] = true
	}
	if want := map[string]bool{at("p/teams/data.yaml.age"): true, at("named.json.age"): true, at("users.yml.age"): true}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if members := c.Documents[0].Value["teams"].(map[string]any)["members"]; members.([]any)[0] != "a" {
		t.Errorf("%v", members)
	}
}

// What was encrypted is in no message.
func TestEncryptedDataThatIsRefused(t *testing.T) {
	const hush = "hush"
	root := folder(t, map[string]string{
		"plain.json.age":      `{"a": 1}`,
		"bad.yaml.age":        sealed("a: 1\nb: *" + hush + "\n"),
		"bad.json.age":        sealed("{\n\"a\": " + hush + "}"),
		"rules.rego.age":      sealed(rego),
		"team/.manifest":      "{}",
		"team/a.rego":         rego,
		"team/data.json.age":  sealed("{}"),
		"team/other.json.age": "nothing to anybody",
	})
	at := func(name string) string { return filepath.Join(root, name) }
	pack(t, at("b.tar.gz"), entry("/a.rego", rego), entry("/x/data.json.age", "{}"))
	for name, want := range map[string]string{
		"plain.json.age": ": is not sealed",
		"bad.yaml.age":   ": what is encrypted in it is neither JSON nor YAML",
		"bad.json.age":   ":2: what is encrypted in it is neither JSON nor YAML",
		"rules.rego.age": ": is encrypted, and rules are not decrypted: want data in a .json.age or .yaml.age",
		"team":           "/data.json.age: is encrypted, and what is in a bundle is not decrypted: name it by --data instead",
		"b.tar.gz":       ":/x/data.json.age: is encrypted, and what is in a bundle is not decrypted: name it by --data instead",
	} {
		if _, err := Load([]string{at(name)}, nil, turn); err == nil || err.Error() != at(name)+want {
			t.Errorf("got  %v\nwant %s", err, at(name)+want)
		}
	}
	if _, err := Load(nil, []string{at("bad.json.age")}, nil); err == nil || err.Error() != at("bad.json.age")+": is encrypted, and nothing decrypts it here" {
		t.Error(err)
	}
}
