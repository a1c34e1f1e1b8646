package config

import (
	"slices"
	"strings"
)

const notYet = "not supported by this release"

// unsupported lists the settings of the documented configuration that this release does not implement.
// They are refused by name: an operator who writes one counts on it. Whoever implements one takes it out of here.
func unsupported() []string {
	return []string{
		"policy.shadow",
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
