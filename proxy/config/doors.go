package config

import (
	"io/fs"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// doors.go judges what may stand before a listener's protocols.

// socket judges a unix socket's path against those taken, and returns them with
// this one.
func (v *validator) socket(owner, key, path string, taken []bound) []bound {
	const longest = 107 // sun_path, with its final NUL
	switch {
	case path == "" || strings.HasPrefix(path, "@") || strings.Contains(path, "\x00"):
		v.add(key, "want the path of a file behind unix:, got %s", v.show(key, path))
	case len(path) > longest:
		v.add(key, "the path of a unix socket has at most %d bytes, got %d", longest, len(path))
	}
	for _, other := range taken {
		if other.path != "" && filepath.Clean(other.path) == filepath.Clean(path) {
			v.add(key, "%s listens on that address already", other.owner)
			break
		}
	}
	return append(taken, bound{owner: owner, path: path})
}

// SocketMode is the mode that a setting has been judged to mean.
func SocketMode(mode string) fs.FileMode {
	bits, err := strconv.ParseUint(mode, 8, 9)
	if err != nil {
		bits = 0o600
	}
	return fs.FileMode(bits)
}

func (v *validator) mode(key, mode, address string) {
	if mode == "" {
		return
	}
	if !strings.HasPrefix(address, "unix:") {
		v.add(key, "only the file of a unix socket has a mode")
	} else if _, err := strconv.ParseUint(mode, 8, 9); err != nil {
		v.add(key, "want permissions in octal, such as \"0660\", got %s", v.show(key, mode))
	}
}

func (v *validator) tls(key string, tls *TLS) {
	if tls == nil {
		return
	}
	v.nonEmpty(key+".cert", tls.Cert)
	v.nonEmpty(key+".key", tls.Key)
	if tls.ClientAuth != "" {
		v.oneOf(key+".client_auth", tls.ClientAuth, []string{"require", "optional"})
		if tls.ClientCA == "" {
			v.add(key+".client_ca", "want the authorities whose certificates clients are to show")
		}
	}
	if tls.MinVersion != "" {
		v.oneOf(key+".min_version", tls.MinVersion, []string{"1.2", "1.3"})
	}
}

// proxyProtocol judges who may speak for others.
func (v *validator) proxyProtocol(key string, listener *Listener) {
	if listener.ProxyProtocol == nil {
		return
	}
	if strings.HasPrefix(listener.Address, "unix:") {
		v.add(key, "who connects to a unix socket has no address that could be trusted")
	}
	if len(listener.ProxyProtocol.Trusted) == 0 {
		v.add(key+".trusted", "want the addresses of those that send a PROXY header")
	}
	for i, network := range listener.ProxyProtocol.Trusted {
		at := index(key+".trusted", i)
		if network.Bits() == 0 {
			v.add(at, "everybody could claim to be anybody; want the addresses of those that send a PROXY header")
			continue
		}
		v.network(at, network)
	}
}

// network judges how one is written.
func (v *validator) network(at string, network netip.Prefix) {
	switch {
	case network != network.Masked():
		v.add(at, "%s has bits behind its prefix; want %s", v.show(at, network.String()), v.show(at, network.Masked().String()))
	case network.Addr().Is4In6():
		v.add(at, "want an IPv4 network, such as 10.0.0.0/8")
	}
}
