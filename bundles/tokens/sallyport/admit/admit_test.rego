package sallyport.admit_test

import data.sallyport.admit

test_everybody_may_log_in_with_a_password_only if {
	admit.allow with input as {}
	admit.methods == {"password"} with input as {}
}
