package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/policy"
	"sallyport/proxy/identity"
)

// setUser fills in who the client is, as the proxy would find it. The user directory
// is asked where there is a password; a certificate vouches for a name by itself, and
// with neither the name is a claim.
func (q *question) setUser(c *cobra.Command, stage policy.Stage, input map[string]any, users *identity.Users) (notes []string, err error) {
	if !slices.Contains(askedOf["user"], stage) {
		return nil, nil
	}
	into, name := "identity", "name"
	if stage == policy.Authenticate {
		into, name = "credentials", "username"
	}
	method, err := q.methodIn(stage, input, into)
	if err != nil {
		return nil, err
	}
	if method != "" {
		put(input, string(method), into, "method")
	}
	judged := c.Flag("verified").Changed
	told := q.user != "" // who it is, so that the rest follows
	var known, verified bool
	var found identity.User
	switch {
	case method == policy.MethodNone || method == policy.MethodCertificate:
		if judged {
			return nil, fmt.Errorf("--verified: with the method %s there is no password", method)
		}
		verified = method == policy.MethodCertificate
		told = told || stage == policy.Authenticate && q.method != ""
	case q.user != "":
		user, active := users.Lookup(q.user)
		known = user != nil || judged && q.verified
		verified = q.verified && (active || judged)
		switch {
		case user == nil:
			notes = append(notes, fmt.Sprintf("data.users has no %s: no groups and no attributes", q.user))
		case !active:
			notes = append(notes, fmt.Sprintf("%s is disabled or expired: its password would not be verified", q.user))
		}
		if user != nil && verified {
			found = *user
		}
	case judged:
		put(input, q.verified, into, "verified")
	}
	if q.user != "" {
		put(input, q.user, into, name)
	}
	if told {
		put(input, list(found.Groups), into, "groups")
		put(input, copied(found.Attributes), into, "attributes")
	}
	if told && stage == policy.Authenticate {
		put(input, known, into, "known")
		put(input, verified, into, "verified")
	}
	if len(q.groups) > 0 {
		put(input, list(q.groups), into, "groups")
	}
	for _, pair := range q.attribute {
		key, text, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--attribute: want KEY=VALUE, got %q", pair)
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		put(input, value, into, "attributes", key)
	}
	if len(q.groups) > 0 || len(q.attribute) > 0 {
		notes = slices.DeleteFunc(notes, func(n string) bool { return strings.HasPrefix(n, "data.users has no") })
	}
	return notes, nil
}

// methodIn is how the client authenticates: as --method says, or the input, or as is
// usual; "" where the input leaves it out.
func (q *question) methodIn(stage policy.Stage, input map[string]any, into string) (policy.Method, error) {
	root := policy.Input(stage)
	fact, _ := root.At(into, "method")
	given, _ := input[into].(map[string]any)
	told, _ := given["method"].(string)
	switch {
	case q.method != "" && !slices.Contains(fact.Values, q.method):
		return "", fmt.Errorf("--method: want %s, got %q", strings.Join(fact.Values, ", "), q.method)
	case q.method != "":
		return policy.Method(q.method), nil
	case told != "":
		return policy.Method(told), nil
	case q.user != "":
		return policy.MethodPassword, nil
	case q.input == "":
		return policy.MethodNone, nil
	}
	return "", nil
}

func copied(m map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}
