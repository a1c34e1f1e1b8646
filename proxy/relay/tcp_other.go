//go:build !linux

package relay

import "sallyport/proxy/loop"

// tcp is what a direction between TCP sockets needs on Linux: nothing here.
type tcp struct{}

func (t *tcp) release() {}

func (d *direction) copy() (received, sent error) { return d.copyPlain() }

// watch would report a reset of a source that has closed its sending half. Here
// it is noticed when something is sent to it.
func (d *direction) watch() error { return nil }

func (d *direction) settle(*loop.Task) {}

func (d *direction) unsoundEnd() error { return nil }
