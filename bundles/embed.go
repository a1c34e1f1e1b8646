// Package bundles holds the policies that come with the proxy, each with its
// tests: the default policy, which answers the stages that the user's policy
// leaves out and is part of the binary, and examples to copy from, which are
// not.
package bundles

import "embed"

// The tests stay out of the binary.
//
//go:embed default/admit.rego default/authenticate.rego default/route.rego default/dial.rego default/manage.rego
var files embed.FS

// File is one Rego file.
type File struct {
	Path string // as in the repository: "bundles/default/route.rego"
	Text []byte
}

// Default is the default policy, one file for each stage that it answers.
func Default() []File {
	entries, err := files.ReadDir("default")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	out := make([]File, 0, len(entries))
	for _, entry := range entries {
		path := "default/" + entry.Name()
		text, err := files.ReadFile(path)
		if err != nil {
			panic(err)
		}
		out = append(out, File{Path: "bundles/" + path, Text: text})
	}
	return out
}
