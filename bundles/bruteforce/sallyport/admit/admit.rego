# METADATA
# title: Admit everybody, at a pace; ban who floods
# schemas:
#   - input: schema.admit
package sallyport.admit

import data.sallyport.lib.trust

allow := true

# Remembered of the source, and held against it before anything is evaluated.
limits := {"connections": 50, "rate": "20/s", "burst": 100} if not trust.trusted(input.source.prefixes)

ban := {"for": "10m"} if {
	input.source.denials.minute > 100
	not trust.trusted(input.source.prefixes)
}
