//go:build !linux

package listen

// User is the number of the user who has connected to a unix socket, which is
// known on Linux only.
func (c *Conn) User() (uid int64, ok bool) { return 0, false }
