# METADATA
# title: Authenticate those whom the user directory knows
# description: The users are in users/data.yaml.
# schemas:
#   - input: schema.authenticate
package sallyport.authenticate

default allow := false

allow if input.credentials.verified

reason contains "the password is wrong, or the user is unknown, disabled or expired" if {
	not input.credentials.verified
}
