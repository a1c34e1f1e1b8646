# The bundle owns nothing but teams/search, and so its tests are below it.
package teams.search.domains_test

import data.teams.search

_at(text) := {"time": time.parse_rfc3339_ns(text)}

test_the_index_is_there_at_any_time if {
	every text in ["2026-11-24T04:59:00Z", "2026-11-24T12:00:00Z"] {
		search.domains["index.search.example"].ports == [443] with input as _at(text)
	}
}

test_sites_are_crawled_by_night if {
	search.domains["en.wikipedia.org"].ports == [80, 443] with input as _at("2026-11-24T04:59:00Z")
	not search.domains["en.wikipedia.org"] with input as _at("2026-11-24T05:00:00Z")
}
