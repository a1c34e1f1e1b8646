package config

// doors.go judges what may stand before a listener's protocols.

// proxyProtocol judges who may speak for others.
func (v *validator) proxyProtocol(key string, listener *Listener) {
	if listener.ProxyProtocol == nil {
		return
	}
	if len(listener.ProxyProtocol.Trusted) == 0 {
		v.add(key+".trusted", "want the addresses of those that send a PROXY header")
	}
	for i, network := range listener.ProxyProtocol.Trusted {
		at := index(key+".trusted", i)
		switch {
		case network != network.Masked():
			v.add(at, "%s has bits behind its prefix; want %s", v.show(at, network.String()), v.show(at, network.Masked().String()))
		case network.Bits() == 0:
			v.add(at, "everybody could claim to be anybody; want the addresses of those that send a PROXY header")
		case network.Addr().Is4In6():
			v.add(at, "want an IPv4 network, such as 10.0.0.0/8")
		}
	}
}
