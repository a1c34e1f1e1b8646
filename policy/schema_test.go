package policy

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestSchemas holds the schemas against the files that authors use, so that a
// change of the contract shows in a review.
func TestSchemas(t *testing.T) {
	for _, stage := range Stages() {
		t.Run(string(stage), func(t *testing.T) {
			path := filepath.Join("schemas", string(stage)+".json")
			got := Schema(stage)
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s is out of date: run `make golden` and read the difference", path)
			}
		})
	}
}

// TestSchemaShape checks what holds of every object of a schema: all its facts
// are required and no other is allowed.
func TestSchemaShape(t *testing.T) {
	for _, stage := range Stages() {
		var schema map[string]any
		if err := json.Unmarshal(Schema(stage), &schema); err != nil {
			t.Fatal(err)
		}
		checkShape(t, "input", schema)
	}
}

func checkShape(t *testing.T, path string, schema map[string]any) {
	if schema["type"] == nil {
		t.Errorf("%s has no type", path)
	}
	properties, ok := schema["properties"].(map[string]any)
	if !ok {
		return
	}
	if schema["additionalProperties"] != false {
		t.Errorf("%s allows facts that nobody declared", path)
	}
	if required := schema["required"].([]any); len(required) != len(properties) {
		t.Errorf("%s requires %d of %d facts", path, len(required), len(properties))
	}
	for name, property := range properties {
		checkShape(t, path+"."+name, property.(map[string]any))
	}
}
