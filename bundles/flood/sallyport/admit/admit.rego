# METADATA
# title: Admit everybody at a pace, and ban who floods
# schemas:
#   - input: schema.admit
package sallyport.admit

import data.sallyport.lib.trust

allow := true

_stranger if not trust.trusted(input.source.prefixes)

# The networks that have limits of their own, the smallest first.
_networks := [p |
	known := data.flood.networks
	some p in input.source.prefixes
	known[p]
]

limits := object.union(data.flood.networks[_networks[0]], {"prefix": _networks[0]}) if {
	_stranger
	count(_networks) > 0
}

limits := data.flood.limits if {
	_stranger
	count(_networks) == 0
}

_measures := {
	"connections in a second": input.source.rate.second,
	"connections in a minute": input.source.rate.minute,
	"connections open": input.source.open,
	"denials in a minute": input.source.denials.minute,
	"denials in an hour": input.source.denials.hour,
	"denials in a day": input.source.denials.day,
}

# The bans that apply to the source.
_earned contains b if {
	_stranger
	some b in data.flood.bans
	_measures[b.measure] > b.over
}

ban := {"for": max({b.for | some b in _earned})} if count(_earned) > 0

# For the log: a ban refuses whatever else is said.
reason contains sprintf("%s: %d, and %d are a flood", [b.measure, _measures[b.measure], b.over]) if some b in _earned

# A measure that there is not would never apply, and nobody would notice.
warn contains sprintf("flood.bans: there is no measure %q", [b.measure]) if {
	some b in data.flood.bans
	not _measured(b)
}

_measured(b) if b.measure in object.keys(_measures)
