# METADATA
# title: The form of a rule
# description: |
#   A key that is misspelt would make a rule mean more than was meant, so that
#   everything about a rule has to be understood.
package sallyport.lib.form

# METADATA
# description: what is wrong with a rule
problems(rule) := {"it is not an object"} if not is_object(rule)

problems(rule) := {sprintf("%s is missing, unknown or malformed", [key]) |
	some key in (object.keys(rule) | _required(rule))
	not _valid(key, rule)
} if {
	is_object(rule)
}

default _required(_) := {"action"}

_required(rule) := {"to"} if rule.action == "redirect"

_valid("action", rule) if rule.action in {"allow", "deny", "redirect"}

_valid("note", rule) if is_string(rule.note)

_valid("priority", rule) if _whole(rule.priority)

_valid("wildcard", rule) if {
	is_string(rule.wildcard)
	regex.match(`^[a-z0-9_.*-]+$`, rule.wildcard)
}

_valid("groups", rule) if {
	is_array(rule.groups)
	every group in rule.groups {
		is_string(group)
	}
}

_valid("ports", rule) if {
	is_array(rule.ports)
	every range in rule.ports {
		_range(range)
	}
}

_valid("to", rule) if {
	rule.action == "redirect"
	is_object(rule.to)
	rule.to != {}
	every key, value in rule.to {
		_destination(key, value)
	}
}

_destination("host", host) if is_string(host)

_destination("port", port) if _port(port)

_range(range) if _port(range)

_range(range) if {
	is_object(range)
	object.keys(range) == {"from", "to"}
	_port(range.from)
	_port(range.to)
	range.from <= range.to
}

_port(port) if {
	_whole(port)
	port >= 1
	port <= 65535
}

_whole(number) if {
	is_number(number)
	floor(number) == number
}
