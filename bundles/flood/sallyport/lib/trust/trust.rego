# METADATA
# title: Who is never held back or banned
package sallyport.lib.trust

trusted(prefixes) if {
	known := data.flood.trusted
	some p in prefixes
	known[p]
}
