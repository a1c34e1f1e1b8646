package sallyport.admit_test

import data.sallyport.admit

test_everybody_may_connect if {
	admit.allow with input as {"source": {"ip": "192.0.2.7", "port": 40000}}
}
