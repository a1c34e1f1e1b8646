# METADATA
# title: What a fence says of an address
# description: |
#   What admit and dial share. The proxy's databases tell where an address is; of
#   what they don't know the facts are empty.
package sallyport.lib.fence

default verdict(_, _) := "deny"

# METADATA
# description: allow or deny, by the first part of a fence that speaks of a place
verdict(fence, geo) := word if {
	word := fence.asns[format_int(geo.asn, 10)]
} else := word if {
	word := fence.countries[geo.country]
} else := word if {
	word := fence.continents[geo.continent]
} else := fence.unknown if {
	geo.country == ""
}

# METADATA
# description: a place as people call it
place(geo) := concat("", [_country(geo), _system(geo)])

default _country(_) := "in a country that no database tells"

_country(geo) := sprintf("in %s", [geo.country]) if geo.country != ""

default _system(_) := ""

_system(geo) := sprintf(" (AS%d %s)", [geo.asn, geo.organization]) if geo.asn != 0
