package manage

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/usage"
)

// description is what of OpenAPI is looked at here.
type description struct {
	OpenAPI string `json:"openapi"`
	Paths   map[string]map[string]json.RawMessage
}

type described struct {
	OperationID string `json:"operationId"`
	Summary     string
	Security    []any
	Responses   map[string]struct {
		Ref     string `json:"$ref"`
		Content map[string]struct {
			Schema struct {
				Type       string
				Properties map[string]any
			}
			Example map[string]any
		}
	}
}

// oneOfMany is one user, of many that are behind, and no usage.
type oneOfMany struct{}

func (oneOfMany) Account(name string) (identity.Account, bool) {
	return identity.Account{Name: name}, true
}
func (oneOfMany) Accounts(string, int) ([]identity.Account, bool) {
	return []identity.Account{{Name: "ann"}}, true
}
func (oneOfMany) Write(context.Context, identity.Terms, ...identity.Edit) error { return nil }
func (oneOfMany) Report(usage.Kind, time.Duration) (*usage.Report, error) {
	return &usage.Report{}, nil
}
func (oneOfMany) Remove(string, string) error { return nil }

// The description is of what is served: of each path those methods that it takes,
// and answers that have what they are said to have.
func TestDescription(t *testing.T) {
	b := start(t, byToken, func(o *Options) {
		o.Bans, o.Users = guard.New(16), oneOfMany{}
		o.Usage = oneOfMany{}
	})
	if got := b.do(t, "GET", "/openapi.json"); got.status != 401 {
		t.Errorf("to a stranger: %d %s", got.status, got.body)
	}
	got := b.do(t, "GET", "/openapi.json", bearer(opsToken))
	var d description
	if err := json.Unmarshal([]byte(got.body), &d); err != nil || d.OpenAPI != "3.1.0" || got.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v, %s", err, got.body)
	}
	ids := map[string]bool{}
	for template, item := range d.Paths {
		path, variable := template, ""
		if base, name, found := strings.Cut(template, "{"); found {
			path, variable = base+"192.0.2.77", strings.TrimSuffix(name, "}")
		}
		var parameters []struct {
			Name, In string
			Required bool
		}
		json.Unmarshal(item["parameters"], &parameters)
		if named := len(parameters) == 1 && parameters[0].Name == variable && parameters[0].In == "path" && parameters[0].Required; named != (variable != "") {
			t.Errorf("%s has the parameters %v", template, parameters)
		}
		delete(item, "parameters")
		for method, text := range item {
			var o described
			if err := json.Unmarshal(text, &o); err != nil || o.Summary == "" || ids[o.OperationID] || o.Responses["default"].Ref == "" {
				t.Errorf("%s %s: %v, %s", method, template, err, text)
			}
			ids[o.OperationID] = true
			open := b.do(t, strings.ToUpper(method), path).status != 401
			if open != (o.Security != nil) {
				t.Errorf("%s %s needs no token: %t, is described as %s", method, template, open, text)
			}
			example := o.Responses["200"].Content["application/json"].Example
			if method != "get" || variable != "" || example == nil || template == "/v1/policy" { // which the test has in another shape
				continue
			}
			var answer map[string]any
			query := map[string]string{"/v1/usage": "?by=user"}[path]
			json.Unmarshal([]byte(b.do(t, "GET", path+query, bearer(opsToken)).body), &answer)
			for key := range example {
				if _, has := answer[key]; !has {
					t.Errorf("%s answers without %s: %v", path, key, answer)
				}
			}
		}
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"} {
			known := strings.ToLower(method)
			if method == "HEAD" {
				known = "get"
			}
			_, listed := item[known]
			served := b.do(t, method, path, bearer(opsToken))
			allowed := strings.Split(served.header.Get("Allow"), ", ")
			if (served.status != http.StatusMethodNotAllowed) != listed || served.status == http.StatusMethodNotAllowed && slices.Contains(allowed, method) {
				t.Errorf("%s %s: %d, Allow %q; listed: %t", method, path, served.status, allowed, listed)
			}
		}
	}
	if len(d.Paths) != 14 {
		t.Errorf("%d paths are described", len(d.Paths))
	}
}
