package sallyport.route_test

import data.sallyport.route

_lists := {
	"ports": [443],
	"blocked": {"paste.example": "anybody can put anything there"},
	"session_limits": {"idle": "5m", "duration": "4h"},
	"groups": {"agents": {"domains": {"packages.example": {}, "old.example": {"warn": "old.example goes away"}}}},
	"identities": {
		"reader": {
			"domains": {"papers.example": {"ports": [80, 443]}, "paste.example": {}},
			"networks": {"192.0.2.0/24": {}},
			"session_limits": {"duration": "15m", "bytes": "1MiB"},
			"labels": {"team": "research"},
		},
		"writer": {"domains": {"drafts.example": {}}},
	},
}

_suffixes := {
	"drafts.example": ["drafts.example", "example"],
	"notpapers.example": ["notpapers.example", "example"],
	"old.example": ["old.example", "example"],
	"packages.example": ["packages.example", "example"],
	"papers.example": ["papers.example", "example"],
	"papers.example.evil.test": ["papers.example.evil.test", "example.evil.test", "evil.test", "test"],
	"raw.paste.example": ["raw.paste.example", "paste.example", "example"],
	"www.papers.example": ["www.papers.example", "papers.example", "example"],
}

_prefixes := {
	"192.0.2.7": ["192.0.2.7/32", "192.0.2.0/24", "192.0.0.0/16", "0.0.0.0/0"],
	"198.51.100.7": ["198.51.100.7/32", "198.51.100.0/24", "198.51.0.0/16", "0.0.0.0/0"],
}

_asked(name, groups, host, port) := {
	"identity": {"name": name, "groups": groups},
	"request": {"command": "connect"},
	"target": {
		"host": host,
		"port": port,
		"suffixes": object.get(_suffixes, host, []),
		"prefixes": object.get(_prefixes, host, []),
	},
}

test_names_on_the_own_list_are_allowed_and_those_below_them if {
	every host in ["papers.example", "www.papers.example"] {
		route.allow with input as _asked("reader", [], host, 443) with data.egress as _lists
		route.deny == set() with input as _asked("reader", [], host, 443) with data.egress as _lists
		route.reason == set() with input as _asked("reader", [], host, 443) with data.egress as _lists
	}
}

test_names_that_only_look_alike_are_denied if {
	every host in ["notpapers.example", "papers.example.evil.test"] {
		not route.allow with input as _asked("reader", [], host, 443) with data.egress as _lists
	}
}

test_names_on_the_list_of_another_are_denied if {
	facts := _asked("reader", ["agents"], "drafts.example", 443)
	not route.allow with input as facts with data.egress as _lists
	route.reason == {"drafts.example is on no list of reader"} with input as facts with data.egress as _lists
}

test_names_on_the_list_of_a_group_are_for_its_members if {
	route.allow with input as _asked("reader", ["agents"], "packages.example", 443) with data.egress as _lists
	route.allow with input as _asked("newcomer", ["agents"], "packages.example", 443) with data.egress as _lists
	not route.allow with input as _asked("reader", ["others"], "packages.example", 443) with data.egress as _lists
	not route.allow with input as _asked("agents", [], "packages.example", 443) with data.egress as _lists
}

test_ports_are_the_entry_s_or_else_everybody_s if {
	route.allow with input as _asked("reader", [], "papers.example", 80) with data.egress as _lists
	not route.allow with input as _asked("reader", ["agents"], "packages.example", 80) with data.egress as _lists
	facts := _asked("reader", [], "papers.example", 22)
	not route.allow with input as facts with data.egress as _lists
	route.reason == {"papers.example is on a list of reader, but not with port 22"} with input as facts
		with data.egress as _lists
}

test_addresses_are_allowed_in_the_networks_of_the_list if {
	route.allow with input as _asked("reader", [], "192.0.2.7", 443) with data.egress as _lists
	not route.allow with input as _asked("reader", [], "198.51.100.7", 443) with data.egress as _lists
	not route.allow with input as _asked("writer", [], "192.0.2.7", 443) with data.egress as _lists
}

test_strangers_reach_nothing if {
	not route.allow with input as _asked("", [], "papers.example", 443) with data.egress as _lists
	not route.allow with input as _asked("stranger", [], "papers.example", 443) with data.egress as _lists
}

test_plain_http_is_as_a_tunnel if {
	facts := object.union(_asked("reader", [], "papers.example", 443), {"request": {"command": "forward"}})
	route.allow with input as facts with data.egress as _lists
}

test_other_commands_are_denied if {
	every command in ["associate", "bind", "datagram"] {
		facts := object.union(_asked("reader", [], "papers.example", 443), {"request": {"command": command}})
		not route.allow with input as facts with data.egress as _lists
		route.reason == {sprintf("the command %s is not allowed: only connect and forward are", [command])} with input as facts
			with data.egress as _lists
	}
}

test_what_is_blocked_is_denied_even_on_a_list if {
	facts := _asked("reader", [], "raw.paste.example", 443)
	route.allow with input as facts with data.egress as _lists
	route.deny == {"paste.example is blocked: anybody can put anything there"} with input as facts
		with data.egress as _lists
}

test_an_entry_s_warning_is_logged if {
	facts := _asked("reader", ["agents"], "old.example", 443)
	route.allow with input as facts with data.egress as _lists
	route.warn == {"old.example goes away"} with input as facts with data.egress as _lists
	route.warn == set() with input as _asked("reader", [], "papers.example", 443) with data.egress as _lists
}

test_own_session_limits_replace_those_of_everybody if {
	route.session_limits == {"idle": "5m", "duration": "15m", "bytes": "1MiB"}
		with input as _asked("reader", [], "papers.example", 443)
		with data.egress as _lists
	route.session_limits == {"idle": "5m", "duration": "4h"} with input as _asked("writer", [], "drafts.example", 443)
		with data.egress as _lists
	route.session_limits == {"duration": "15m", "bytes": "1MiB"}
		with input as _asked("reader", [], "papers.example", 443)
		with data.egress as object.remove(_lists, ["session_limits"])
}

test_labels_are_the_identity_s if {
	route.labels == {"team": "research"} with input as _asked("reader", [], "papers.example", 443)
		with data.egress as _lists
	route.labels == {} with input as _asked("writer", [], "drafts.example", 443) with data.egress as _lists
}

test_nothing_is_allowed_without_lists if {
	not route.allow with input as _asked("reader", ["agents"], "papers.example", 443) with data.egress as {}
}

# The rest hold the data that is shipped.
_papers(name, groups) := {
	"identity": {"name": name, "groups": groups},
	"request": {"command": "connect"},
	"target": {"host": "arxiv.org", "port": 443, "suffixes": ["arxiv.org", "org"], "prefixes": []},
}

test_the_shipped_agent_reads_papers if {
	route.allow with input as _papers("research-agent", ["agents"])
	route.explain with input as _papers("research-agent", ["agents"])
	route.session_limits == {"idle": "5m", "duration": "15m", "bytes": "200MiB"}
		with input as _papers("research-agent", ["agents"])
}

test_the_shipped_service_does_not if {
	not route.allow with input as _papers("billing", ["services"])
}
