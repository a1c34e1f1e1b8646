package sallyport.lib.hours_test

import data.sallyport.lib.hours

_office := {
	"time_zone": "Europe/Berlin",
	"hours": {
		"Monday": {"opens": "08:00", "closes": "18:30"},
		"Friday": {"opens": "08:00", "closes": "16:00"},
	},
	"holidays": {"2026-12-25": "Christmas Day"},
}

_at(text) := {"time": time.parse_rfc3339_ns(text)}

_with_hours(changes) := object.union(_office, {"hours": {"Monday": changes}})

test_open_from_the_first_minute_to_the_last if {
	every text in ["2026-11-23T08:00:00+01:00", "2026-11-27T15:59:00+01:00", "2026-07-06T08:00:00+02:00"] {
		hours.open with input as _at(text) with data.office as _office
	}
}

test_closed_before_and_after_and_on_other_days if {
	every text in [
		"2026-11-23T07:59:00+01:00",
		"2026-11-23T18:30:00+01:00",
		"2026-11-24T12:00:00+01:00",
		"2026-11-27T16:00:00+01:00",
		"2026-07-06T07:59:00+02:00",
	] {
		not hours.open with input as _at(text) with data.office as _office
	}
}

test_closed_on_holidays if {
	christmas := _at("2026-12-25T12:00:00+01:00")
	not hours.open with input as christmas with data.office as _office
	hours.holiday == "Christmas Day" with input as christmas with data.office as _office
	hours.open with input as christmas with data.office as object.remove(_office, ["holidays"])
}

test_open_until_midnight if {
	office := _with_hours({"opens": "00:00", "closes": "24:00"})
	hours.open with input as _at("2026-11-23T00:00:00+01:00") with data.office as office
	hours.open with input as _at("2026-11-23T23:59:00+01:00") with data.office as office
}

test_hours_that_are_written_wrongly_keep_it_closed if {
	noon := _at("2026-11-23T12:00:00+01:00")
	every changes in [{"closes": "6pm"}, {"closes": "25:00"}, {"opens": "8:00"}, {"opens": 8}] {
		not hours.open with input as noon with data.office as _with_hours(changes)
	}
	not hours.open with input as noon with data.office as {}
	not hours.open with input as noon
		with data.office as object.union(object.remove(_office, ["hours"]), {"hours": {"monday": _office.hours.Monday}})
}

test_closing_is_today if {
	hours.closing == time.parse_rfc3339_ns("2026-11-23T18:30:00+01:00")
		with input as _at("2026-11-23T12:00:00+01:00")
		with data.office as _office
}

test_clock_is_that_of_the_office if {
	hours.clock == "Monday 12:00" with input as _at("2026-11-23T11:00:00Z") with data.office as _office
	hours.usual == "open from 08:00 to 18:30 on that day" with input as _at("2026-11-23T11:00:00Z")
		with data.office as _office
	hours.usual == "not open on that day" with input as _at("2026-11-24T11:00:00Z") with data.office as _office
}
