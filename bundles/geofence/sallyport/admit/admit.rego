# METADATA
# title: Admit clients from within the fence
# schemas:
#   - input: schema.admit
package sallyport.admit

import data.sallyport.lib.fence

default allow := false

allow if _inside

labels := {"client.country": input.source.geo.country}

reason contains message if {
	input.source.scope == "public"
	not _inside
	message := sprintf("%s is %s", [input.source.ip, fence.place(input.source.geo)])
}

reason contains message if {
	input.source.scope != "public"
	not _inside
	message := sprintf("%s is a %s address of no internal network", [input.source.ip, input.source.scope])
}

_inside if {
	input.source.scope == "public"
	fence.verdict(data.geofence.clients, input.source.geo) == "allow"
}

_inside if {
	input.source.scope != "public"
	some network in input.source.prefixes
	data.geofence.internal.clients[network]
}
