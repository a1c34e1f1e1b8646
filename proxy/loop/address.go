package loop

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func localOf(fd int) (netip.AddrPort, error) {
	return nameOf(fd, unix.SYS_GETSOCKNAME, "getsockname")
}

func remoteOf(fd int) (netip.AddrPort, error) {
	return nameOf(fd, unix.SYS_GETPEERNAME, "getpeername")
}

func nameOf(fd int, call uintptr, name string) (netip.AddrPort, error) {
	var at unix.RawSockaddrAny
	length := uint32(unsafe.Sizeof(at))
	_, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&length)))
	if errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError(name, errno)
	}
	return addrPort(&at), nil
}

// addrPort is what a socket's address says, of IPv4 never in IPv6 form. A link-local
// address has the number of its interface for a zone: without, nothing can be bound
// to it.
func addrPort(a *unix.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), network(&in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		ip := netip.AddrFrom16(in.Addr).Unmap()
		if in.Scope_id != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(in.Scope_id), 10))
		}
		return netip.AddrPortFrom(ip, network(&in.Port))
	}
	return netip.AddrPort{}
}

// network is a port in the order of the network's bytes.
func network(port *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(port))[:])
}

// sockaddr is the reverse of addrPort.
func sockaddr(at netip.AddrPort) (family int, raw unix.RawSockaddrAny, length uint32) {
	if at.Addr().Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&raw))
		in.Family, in.Addr = unix.AF_INET, at.Addr().As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&in.Port))[:], at.Port())
		return unix.AF_INET, raw, unix.SizeofSockaddrInet4
	}
	in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&raw))
	in.Family, in.Addr = unix.AF_INET6, at.Addr().As16()
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&in.Port))[:], at.Port())
	return unix.AF_INET6, raw, unix.SizeofSockaddrInet6
}
