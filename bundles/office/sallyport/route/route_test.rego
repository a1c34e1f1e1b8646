package sallyport.route_test

import data.sallyport.route

_office := {
	"time_zone": "Europe/Berlin",
	"hours": {"Monday": {"opens": "08:00", "closes": "18:30"}, "Tuesday": {"opens": "08:00", "closes": "18:30"}},
	"holidays": {"2026-11-24": "Founders' Day"},
	"groups": {
		"staff": {"domains": {"wikipedia.org": "looking things up"}},
		"engineering": {"after_hours": true, "domains": {"github.com": "code"}},
	},
	"ports": [443],
	"session_limits": {"day": {"idle": "15m"}, "night": {"idle": "5m", "duration": "30m"}},
	"contact": "it@office.example",
}

_noon := "2026-11-23T12:00:00+01:00"

_evening := "2026-11-23T21:04:00+01:00"

_holiday := "2026-11-24T12:00:00+01:00"

_suffixes := {
	"de.wikipedia.org": ["de.wikipedia.org", "wikipedia.org", "org"],
	"github.com": ["github.com", "com"],
	"notwikipedia.org": ["notwikipedia.org", "org"],
}

_ann := {"name": "ann", "groups": ["staff"]}

_ben := {"name": "ben", "groups": ["staff", "engineering"]}

_asked(who, host, when) := {
	"time": time.parse_rfc3339_ns(when),
	"identity": who,
	"request": {"command": "connect"},
	"target": {"host": host, "port": 443, "suffixes": object.get(_suffixes, host, [])},
}

test_the_lists_of_the_groups_are_allowed_at_work if {
	every facts in [
		_asked(_ann, "de.wikipedia.org", _noon),
		_asked(_ben, "de.wikipedia.org", _noon),
		_asked(_ben, "github.com", _noon),
	] {
		route.allow with input as facts with data.office as _office
		route.deny == set() with input as facts with data.office as _office
	}
}

test_other_names_are_denied if {
	every host in ["github.com", "notwikipedia.org", "192.0.2.7"] {
		facts := _asked(_ann, host, _noon)
		not route.allow with input as facts with data.office as _office
		route.deny == {sprintf("%s is on no list of ann (staff); ask it@office.example", [host])} with input as facts
			with data.office as _office
	}
}

test_whoever_is_refused_is_told_why if {
	facts := _asked(_ann, "de.wikipedia.org", _evening)
	not route.allow with input as facts with data.office as _office
	route.explain with input as facts with data.office as _office
	reason := "the office is closed: it is Monday 21:04 there, and it is open from 08:00 to 18:30 on that day"
	route.deny == {reason} with input as facts with data.office as _office
}

test_holidays_are_told_too if {
	facts := _asked(_ann, "de.wikipedia.org", _holiday)
	not route.allow with input as facts with data.office as _office
	"the office is closed on Founders' Day" in route.deny with input as facts with data.office as _office
}

test_some_work_after_hours if {
	every when in [_evening, _holiday] {
		facts := _asked(_ben, "github.com", when)
		route.allow with input as facts with data.office as _office
		route.deny == set() with input as facts with data.office as _office
		route.session_limits == {"idle": "5m", "duration": "30m"} with input as facts with data.office as _office
	}
}

test_a_session_of_the_day_ends_with_it if {
	closing := time.parse_rfc3339_ns("2026-11-23T18:30:00+01:00")
	route.session_limits == {"idle": "15m", "until": closing} with input as _asked(_ann, "de.wikipedia.org", _noon)
		with data.office as _office
	route.session_limits == {"idle": "15m"} with input as _asked(_ben, "de.wikipedia.org", _noon)
		with data.office as _office
}

test_plain_http_is_as_a_tunnel if {
	facts := object.union(_asked(_ann, "de.wikipedia.org", _noon), {"request": {"command": "forward"}})
	route.allow with input as facts with data.office as _office
}

test_other_commands_and_ports_are_denied if {
	bind := object.union(_asked(_ann, "de.wikipedia.org", _noon), {"request": {"command": "bind"}})
	not route.allow with input as bind with data.office as _office
	route.deny == {"the command bind is not allowed: only connect and forward are"} with input as bind with data.office as _office
	mail := object.union(_asked(_ann, "de.wikipedia.org", _noon), {"target": {"port": 25}})
	not route.allow with input as mail with data.office as _office
	route.deny == {"port 25 is not allowed"} with input as mail with data.office as _office
}

test_groups_are_on_the_log if {
	route.labels == {"groups": "staff engineering"} with input as _asked(_ben, "github.com", _noon)
}

test_strangers_reach_nothing if {
	not route.allow with input as _asked({"name": "", "groups": []}, "de.wikipedia.org", _noon) with data.office as _office
	not route.allow with input as _asked(_ben, "github.com", _noon) with data.office as {}
}

# This holds the data that is shipped.
test_the_shipped_engineer_reads_documentation_at_night if {
	facts := object.union(
		_asked(_ben, "pkg.go.dev", _evening),
		{"target": {"suffixes": ["pkg.go.dev", "go.dev", "dev"]}},
	)
	route.allow with input as facts
	route.deny == set() with input as facts
}
