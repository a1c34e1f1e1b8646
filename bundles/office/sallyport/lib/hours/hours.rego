# METADATA
# title: The office's hours
# description: |
#   From office/data.yaml and input.time, which is truncated to the minute. A time
#   or a day that is written wrongly keeps the office closed.
package sallyport.lib.hours

# METADATA
# description: whether the office is open now
default open := false

open if {
	not holiday
	_now >= _minutes(_today.opens)
	_now < _minutes(_today.closes)
}

# METADATA
# description: the name of today's holiday
holiday := data.office.holidays[_format("2006-01-02")]

# METADATA
# description: when the office closes today, in nanoseconds since 1970
closing := input.time + (((_minutes(_today.closes) - _now) * 60) * 1000000000)

# METADATA
# description: the weekday and the time as a person there would tell them
clock := _format("Monday 15:04")

# METADATA
# description: today's hours in words
default usual := "not open on that day"

usual := sprintf("open from %s to %s on that day", [_today.opens, _today.closes])

_today := data.office.hours[_format("Monday")]

_now := _minutes(_format("15:04"))

# Go's layouts are examples of how its reference time would be written.
_format(layout) := time.format([input.time, data.office.time_zone, layout])

# _minutes are those since midnight of a time such as "08:30".
_minutes(text) := (to_number(hours) * 60) + to_number(minutes) if {
	is_string(text)
	regex.match(`^([01]\d|2[0-4]):[0-5]\d$`, text)
	[hours, minutes] := split(text, ":")
}
