# METADATA
# title: Route to what the groups of the token use
# description: The groups' lists are in tokens/data.yaml.
# schemas:
#   - input: schema.route
package sallyport.route

default allow := false

allow if {
	_common
	_listed
	_until
}

explain := true

reason contains sprintf("%s is on no list of %s (%s)", [
	input.target.host,
	input.identity.name,
	concat(", ", input.identity.groups),
]) if {
	not _listed
}

reason contains sprintf("%s %d is not allowed: only connect and forward are, to the ports %v", [
	input.request.command,
	input.target.port,
	data.tokens.ports,
]) if {
	not _common
}

# A session ends when its token does.
session_limits := {"until": _until}

_until := input.identity.attributes.expires * 1000000000

_common if {
	input.request.command in {"connect", "forward"}
	input.target.port in data.tokens.ports
}

_listed if {
	some group in input.identity.groups
	some suffix in input.target.suffixes
	data.tokens.groups[group].domains[suffix]
}
