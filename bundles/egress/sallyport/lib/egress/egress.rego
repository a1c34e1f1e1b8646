# METADATA
# title: The caller's lists
# description: |
#   What route and dial share. Data is looked up by the caller's name and
#   groups, and a list by the target's own suffixes and prefixes, so that a
#   decision costs the same however many identities and entries there are.
package sallyport.lib.egress

# METADATA
# description: the list of the caller's identity, and those of its groups
lists contains data.egress.identities[input.identity.name]

lists contains data.egress.groups[group] if some group in input.identity.groups

# METADATA
# description: the ports that an entry of a list allows
ports(entry) := object.get(entry, "ports", data.egress.ports)
