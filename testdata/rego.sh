#!/bin/sh
# Runs OPA's own fmt, check, test and build over every policy that we ship, and
# asks that its tests reach every line. OPA names the binary. Regal, where it is
# installed, looks at the style: each release has rules of its own, so that what it
# says is advice.
set -eu
cd "$(dirname "$0")/.."
style=true
command -v regal >/dev/null || { style=false; echo "regal is not installed: nobody looks at the style"; }
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
for dir in bundles/*/; do
	dir=${dir%/}
	bundles=$(find "$dir" -name .manifest -exec dirname {} \; | sort)
	# What runs together is looked at together, as bundles where it has manifests:
	# then OPA holds it against their roots.
	sources=${bundles:-$dir}
	how=${bundles:+--bundle}

	unformatted=$("$OPA" fmt --list "$dir")
	[ -z "$unformatted" ] || { echo "opa fmt would change:"; echo "$unformatted"; exit 1; }
	# The paths have no spaces, and $how may be nothing.
	"$OPA" check --strict --schema policy/schemas $how $sources
	if $style; then
		for source in $sources; do regal lint "$source" || true; done # each by its own .regal/config.yaml
	fi
	printf '%s: ' "$dir"
	"$OPA" test $how $sources
	# Standard error has the lines that are missed, and the report every line.
	"$OPA" test --threshold 100 --verbose $how $sources >"$built/report"
	for bundle in $bundles; do
		"$OPA" build --bundle "$bundle" --output "$built/$(basename "$bundle").tar.gz"
	done
done
