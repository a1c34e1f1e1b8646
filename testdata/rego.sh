#!/bin/sh
# Runs OPA's own fmt, check and test over every policy that we ship.
# OPA names the binary.
set -eu
cd "$(dirname "$0")/.."
for dir in bundles/*/; do
	dir=${dir%/}
	unformatted=$("$OPA" fmt --list "$dir")
	[ -z "$unformatted" ] || { echo "opa fmt would change:"; echo "$unformatted"; exit 1; }
	"$OPA" check --strict --schema policy/schemas "$dir"
	printf '%s: ' "$dir"
	"$OPA" test "$dir"
done
