package distribute

import (
	"errors"
	"fmt"
	"io"

	"github.com/open-policy-agent/opa/v1/util"
)

// maxInput bounds an input document, in bytes.
const maxInput = 16 << 20

// ReadInput reads an input document, which is an object in JSON or YAML, in
// the Go values of encoding/json with numbers as json.Number.
func ReadInput(from io.Reader) (map[string]any, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxInput {
		return nil, fmt.Errorf("is more than %d MiB", maxInput>>20)
	}
	var value any
	if err := util.Unmarshal(text, &value); err != nil {
		return nil, fmt.Errorf("is neither JSON nor YAML: %w", err)
	}
	object, ok := value.(map[string]any)
	switch {
	case !ok:
		return nil, errors.New("want an object of facts")
	case nests(object, maxNesting):
		return nil, fmt.Errorf("nests deeper than %d levels", maxNesting)
	}
	return object, nil
}
