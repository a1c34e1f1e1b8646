// Package bundles holds the policies that are shipped: the default one, which
// answers the stages that no other policy defines.
package bundles

import (
	"embed"
	"io/fs"
)

//go:embed default/*.rego
var files embed.FS

// Default returns the default policy's modules, without their tests, by path.
func Default() map[string][]byte {
	out := map[string][]byte{}
	for _, stage := range []string{"admit", "authenticate", "route", "dial"} {
		path := "default/" + stage + ".rego"
		text, err := fs.ReadFile(files, path)
		if err != nil {
			panic(err) // the file is embedded
		}
		out["bundles/"+path] = text
	}
	return out
}
