# METADATA
# title: What the search team may reach
# description: The index at any time, and the sites that are crawled by night.
# schemas:
#   - input: schema.route
package teams.search

domains[name] := {"ports": [443]} if data.teams.search.indexes[name]

domains[name] := {"ports": [80, 443]} if {
	data.teams.search.crawled[name]
	_night
}

_night if {
	[hour, _, _] := time.clock([input.time, "UTC"])
	hour < 5
}
