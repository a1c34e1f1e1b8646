package sallyport.lib.rules_test

import data.sallyport.lib.rules

_found(rule, place, distance, line) := rules.found(rule, place, distance, line)

test_priority_counts_before_distance_and_distance_before_lines if {
	first := _found({"action": "deny", "priority": 1}, "example", 2, 1)
	second := _found({"action": "allow"}, "www.example", 0, 5)
	third := _found({"action": "deny"}, "example", 2, 0)
	last := _found({"action": "allow", "priority": -1}, "www.example", 0, 0)
	facts := {"identity": {"groups": []}, "target": {"host": "www.example", "port": 443}}
	rules.decisive({first, second, third, last}) == first with input as facts
	rules.decisive({second, third, last}) == second with input as facts
	rules.decisive({third, last}) == third with input as facts
	not rules.decisive(set()) with input as facts
}

test_a_place_is_a_list_or_one_rule if {
	rules.at([1, 2]) == [1, 2]
	rules.at({"action": "allow"}) == [{"action": "allow"}]
}
