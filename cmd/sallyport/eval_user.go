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

// setUser fills in who the client is, as authenticate would find it.
func (q *question) setUser(c *cobra.Command, stage policy.Stage, input map[string]any, users *identity.Users) (notes []string, err error) {
	if !slices.Contains(askedOf["user"], stage) {
		return nil, nil
	}
	into, name, method := "identity", "name", q.method
	if stage == policy.Authenticate {
		into, name = "credentials", "username"
	}
	if method == "" && q.user != "" {
		method = string(policy.MethodPassword)
	}
	if method == "" && q.input == "" {
		method = string(policy.MethodNone)
	}
	if method != "" {
		put(input, method, into, "method")
	}
	if q.user != "" {
		put(input, q.user, into, name)
		user, active := users.Lookup(q.user)
		verified := user != nil && active && q.verified
		switch {
		case user == nil:
			notes = append(notes, fmt.Sprintf("data.users has no %s: no groups and no attributes", q.user))
		case !active:
			notes = append(notes, fmt.Sprintf("%s is disabled or expired: its password would not be verified", q.user))
		}
		groups, attributes := []any{}, map[string]any{}
		if user != nil && (verified || stage != policy.Authenticate) {
			groups, attributes = list(user.Groups), user.Attributes
		}
		put(input, groups, into, "groups")
		put(input, copied(attributes), into, "attributes")
		if stage == policy.Authenticate {
			put(input, user != nil, into, "known")
			put(input, verified, into, "verified")
		}
	}
	if stage == policy.Authenticate && c.Flag("verified").Changed {
		put(input, q.verified, into, "verified")
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

func copied(m map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}
