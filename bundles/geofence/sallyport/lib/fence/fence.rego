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
place(geo) := sprintf("in %s (AS%d %s)", [geo.country, geo.asn, geo.organization]) if geo.country != ""

place(geo) := "in a country that no database tells" if geo.country == ""
