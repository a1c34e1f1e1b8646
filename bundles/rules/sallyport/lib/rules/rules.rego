# METADATA
# title: Which rule decides
# description: What route and dial share. rules/data.yaml tells what a rule means.
package sallyport.lib.rules

import data.sallyport.lib.form

# METADATA
# description: the rules of a place, which are a list or just one
at(place) := place if is_array(place)

at(place) := [place] if not is_array(place)

# METADATA
# description: |
#   a rule with where it stands, and what it weighs against others: distance is
#   that of its place from the target, line where it is in its list, from 0
found(rule, place, distance, line) := {
	"rule": rule,
	"name": sprintf("rule %d at %s", [line + 1, place]),
	"weight": [_priority(rule), 0 - distance, 0 - line],
}

# METADATA
# description: the distance of what speaks of every target
farthest := 1000

# METADATA
# description: the one of the rules found that decides
decisive(rules) := first if {
	applying := {candidate | some candidate in rules; _applies(candidate.rule)}
	heaviest := max({candidate.weight | some candidate in applying})
	some first in applying
	first.weight == heaviest
}

# METADATA
# description: what cannot be understood of the rules found
malformed(rules) := {sprintf("%s: %s", [candidate.name, problem]) |
	some candidate in rules
	some problem in form.problems(candidate.rule)
}

default _priority(_) := 0

_priority(rule) := rule.priority

_applies(rule) if {
	form.problems(rule) == set()
	_port_applies(rule)
	_group_applies(rule)
	_wildcard_applies(rule)
}

_port_applies(rule) if not rule.ports

_port_applies(rule) if input.target.port in rule.ports

_port_applies(rule) if {
	some range in rule.ports
	range.from <= input.target.port
	input.target.port <= range.to
}

_group_applies(rule) if not rule.groups

_group_applies(rule) if {
	some group in input.identity.groups
	group in rule.groups
}

_wildcard_applies(rule) if not rule.wildcard

_wildcard_applies(rule) if glob.match(rule.wildcard, ["."], input.target.host)
