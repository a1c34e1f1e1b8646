# The bundle owns nothing but teams/payments, and so its tests are below it.
package teams.payments.domains_test

test_every_name_is_written_as_targets_are if {
	every name, _ in data.teams.payments.domains {
		regex.match(`^[a-z0-9_-]+(\.[a-z0-9_-]+)+$`, name)
	}
}

test_every_entry_has_ports if {
	every entry in data.teams.payments.domains {
		count(entry.ports) > 0
		every port in entry.ports {
			is_number(port)
		}
	}
}
