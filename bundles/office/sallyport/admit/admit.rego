# METADATA
# title: Admit the office
# description: Clients connect from the networks in office/data.yaml.
# schemas:
#   - input: schema.admit
package sallyport.admit

default allow := false

allow if _in_the_office

methods := {"password"}

explain := true

reason contains message if {
	not _in_the_office
	message := sprintf("%s is in no network of the office; ask %s", [input.source.ip, data.office.contact])
}

_in_the_office if {
	some network in input.source.prefixes
	data.office.networks[network]
}
