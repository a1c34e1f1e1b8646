# METADATA
# title: Slow down who guesses, then ban him
# schemas:
#   - input: schema.authenticate
package sallyport.authenticate

import data.sallyport.lib.trust

default allow := false

allow if input.credentials.verified

_failed if {
	input.credentials.method == "password"
	not input.credentials.verified
}

# Each failure costs more time: 1, 2, 3 … seconds, and of a name that others
# guess at as well.
delay := min({8, max({input.source.failures.hour, input.credentials.failures.hour})}) if _failed

# Failures are those before this one.
ban := {"for": "1h"} if {
	_failed
	input.source.failures.hour >= data.bruteforce.failures - 1
	not trust.trusted(input.source.prefixes)
}
