package sallyport.lib.fence_test

import data.sallyport.lib.fence

_fence := {
	"asns": {"64496": "deny", "64497": "allow"},
	"countries": {"DE": "allow", "BY": "deny", "XX": "alow"},
	"continents": {"EU": "allow", "AS": "deny"},
	"unknown": "deny",
}

_geo(country, continent, asn) := {"country": country, "continent": continent, "asn": asn, "organization": "Example"}

test_the_first_part_that_speaks_decides if {
	fence.verdict(_fence, _geo("DE", "EU", 64496)) == "deny"
	fence.verdict(_fence, _geo("BY", "EU", 64497)) == "allow"
	fence.verdict(_fence, _geo("BY", "EU", 64500)) == "deny"
	fence.verdict(_fence, _geo("FR", "EU", 64500)) == "allow"
	fence.verdict(_fence, _geo("JP", "AS", 64500)) == "deny"
}

test_what_nothing_speaks_of_is_denied if {
	fence.verdict(_fence, _geo("BR", "SA", 64500)) == "deny"
	fence.verdict({}, _geo("DE", "EU", 64500)) == "deny"
	fence.verdict({}, _geo("", "", 0)) == "deny"
}

test_another_word_allows_nothing if {
	fence.verdict(_fence, _geo("XX", "EU", 64500)) != "allow"
}

test_the_unknown_is_decided_by_itself if {
	fence.verdict(_fence, _geo("", "", 0)) == "deny"
	fence.verdict(object.union(_fence, {"unknown": "allow"}), _geo("", "", 0)) == "allow"
	fence.verdict(object.union(_fence, {"unknown": "allow"}), _geo("BR", "SA", 64500)) == "deny"
	fence.verdict(_fence, _geo("", "", 64497)) == "allow"
}

test_places_are_told if {
	fence.place(_geo("DE", "EU", 64500)) == "in DE (AS64500 Example)"
	fence.place(_geo("DE", "EU", 0)) == "in DE"
	fence.place(_geo("", "", 64500)) == "in a country that no database tells (AS64500 Example)"
	fence.place(_geo("", "", 0)) == "in a country that no database tells"
}

# This holds the data that is shipped.
test_every_word_of_the_data_is_allow_or_deny if {
	every list in [data.geofence.clients, data.geofence.targets] {
		every part in ["asns", "countries", "continents"] {
			every place, word in list[part] {
				place == upper(place)
				word in {"allow", "deny"}
			}
		}
		list.unknown in {"allow", "deny"}
	}
}
