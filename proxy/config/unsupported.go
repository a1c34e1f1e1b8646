package config

import (
	"slices"
	"strings"
)

const notYet = "not supported by this release"

// unsupported lists the settings of the documented configuration, and of OPA's own, that this release does not implement.
// They are refused by name: an operator who writes one counts on it. Whoever implements one takes it out of here.
func unsupported() []string {
	return []string{
		"policy.max_age",
		"policy.opa.bundle",
		"policy.opa.bundles",
		"policy.opa.caching",
		"policy.opa.decision_logs.drop_decision",
		"policy.opa.decision_logs.mask_decision",
		"policy.opa.decision_logs.nd_builtin_cache",
		"policy.opa.decision_logs.partition_name",
		"policy.opa.decision_logs.plugin",
		"policy.opa.decision_logs.reporting",
		"policy.opa.decision_logs.request_context",
		"policy.opa.decision_logs.resource",
		"policy.opa.decision_logs.service",
		"policy.opa.default_authorization_decision",
		"policy.opa.default_decision",
		"policy.opa.discovery",
		"policy.opa.distributed_tracing",
		"policy.opa.keys",
		"policy.opa.labels",
		"policy.opa.metrics_export",
		"policy.opa.nd_builtin_cache",
		"policy.opa.persistence_directory",
		"policy.opa.plugins",
		"policy.opa.server",
		"policy.opa.services",
		"policy.opa.status",
		"policy.opa.storage",
		"policy.rollback",
		"policy.run_tests",
		"policy.shadow",
		"upstreams",
	}
}

// isUnsupported tells whether a path, such as listeners[0].tls, is one of those.
func isUnsupported(path string) bool {
	if open := strings.IndexByte(path, '['); open >= 0 {
		if closing := strings.IndexByte(path, ']'); closing > open {
			path = path[:open+1] + path[closing:]
		}
	}
	return slices.Contains(unsupported(), path)
}

// isUnsupportedVariable tells the same of an environment variable's name.
func isUnsupportedVariable(name string) bool {
	for _, known := range unsupported() {
		if variable := variableOf(known); name == variable || strings.HasPrefix(name, variable+"_") {
			return true
		}
	}
	return false
}
