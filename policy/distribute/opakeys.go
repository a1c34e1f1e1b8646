package distribute

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
)

// section is an object of OPA's configuration whose keys are known; "*" stands
// for a name that the operator chooses.
type section struct {
	path []string
	keys string // separated by spaces
	not  map[string]string
}

// sections are those of OPA's that have an effect here, and why others have none.
func sections() []section {
	const polling = "min_delay_seconds max_delay_seconds long_polling_timeout_seconds superseded_etag_ttl_seconds"
	const signing = "keyid scope exclude_files allow_unsigned_delta_bundles"
	return []section{
		{nil, "services labels discovery bundles decision_logs status plugins keys nd_builtin_cache persistence_directory", map[string]string{
			"bundle":                         "is OPA's former form, which has no signatures: use bundles",
			"default_decision":               "has no effect here: a decision is a stage's package",
			"default_authorization_decision": "has no effect here: who may call the management API is for the stage manage",
			"caching":                        "has no effect here",
			"distributed_tracing":            "has no effect here: the standard OTEL_* variables say where traces go",
			"metrics_export":                 "has no effect here: the standard OTEL_* variables say where metrics go",
			"server":                         "has no effect here: the server is listeners and management",
			"storage":                        "has no effect here: policy is held in memory",
		}},
		{[]string{"services", "*"}, "name url headers allow_insecure_tls response_header_timeout_seconds tls credentials type", nil},
		{[]string{"services", "*", "tls"}, "ca_cert system_ca_required", nil},
		{[]string{"services", "*", "credentials"}, "bearer oauth2 client_tls s3_signing gcp_metadata azure_managed_identity plugin", nil},
		{[]string{"keys", "*"}, "key private_key algorithm scope", nil},
		{[]string{"bundles", "*"}, "service resource signing persist size_limit_bytes trigger polling", nil},
		{[]string{"bundles", "*", "polling"}, polling, nil},
		{[]string{"bundles", "*", "signing"}, signing, nil},
		{[]string{"discovery"}, "name prefix decision service resource signing persist trigger polling", nil},
		{[]string{"discovery", "polling"}, polling, nil},
		{[]string{"discovery", "signing"}, signing, nil},
		{[]string{"status"}, "plugin service partition_name console prometheus prometheus_config trigger", nil},
		{[]string{"decision_logs"}, "plugin service partition_name reporting request_context mask_decision drop_decision console resource nd_builtin_cache", nil},
		{[]string{"decision_logs", "reporting"}, "buffer_type buffer_size_limit_bytes buffer_size_limit_events upload_size_limit_bytes min_delay_seconds max_delay_seconds max_decisions_per_second trigger", nil},
	}
}

// known refuses the keys below value that OPA would ignore, or that have no
// effect when OPA is embedded.
func (c *opaCheck) known(key string, value any, at []string) {
	if items, isList := value.([]any); isList && len(at) == 1 && at[0] == "services" {
		for i, item := range items {
			c.known(key+"["+strconv.Itoa(i)+"]", item, []string{"services", "*"})
		}
		return
	}
	i := slices.IndexFunc(sections(), func(s section) bool { return matches(s.path, at) })
	members, isMap := value.(map[string]any)
	named := slices.Contains([]string{"services", "keys", "bundles"}, strings.Join(at, "."))
	switch {
	case value == nil:
		return
	case (i >= 0 || named) && !isMap:
		c.refuse(key, "want a map")
		return
	case i < 0 && !named:
		return
	}
	for _, name := range sortedKeys(members) {
		below := keyOf(key, name)
		if i >= 0 {
			s := sections()[i]
			all := strings.Fields(s.keys)
			if why := s.not[name]; why != "" {
				c.refuse(below, "%s", why)
				continue
			}
			if !slices.Contains(all, name) {
				c.refuse(below, "OPA has no such setting%s", suggestion(name, all))
				continue
			}
		}
		c.known(below, members[name], append(slices.Clip(at), name))
	}
}

func matches(pattern, path []string) bool {
	return slices.EqualFunc(pattern, path, func(p, key string) bool { return p == "*" || p == key })
}

// suggestion ends a message about an unknown name with the nearest known one.
func suggestion(name string, known []string) string {
	best, least := "", len(name)/3+1
	for _, k := range known {
		if len(name) > 64 {
			break
		}
		if d := levenshtein.ComputeDistance(strings.ToLower(name), k); d <= least {
			best, least = k, d-1
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}
