# METADATA
# title: Who is never banned
package sallyport.lib.trust

trusted(prefixes) if {
	known := data.bruteforce.trusted
	some p in prefixes
	known[p]
}
