package process

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"sallyport/policy"
)

// ofTCP finds whose socket has the address from and is connected to the address
// to.
func (f *Finder) ofTCP(from, to netip.AddrPort, until time.Time) policy.Process {
	inode, uid, err := socketOf(from, to)
	if err != nil {
		return policy.Process{}
	}
	found := policy.Process{UID: int64(uid)}
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-late.C:
		return found
	}
	found.PID, found.Exe = f.holder(inode, uid, until)
	return found
}

// Layout of struct inet_diag_req_v2 and struct inet_diag_msg, include/uapi/linux/inet_diag.h.
const (
	requestSize = 56
	answerSize  = 72

	socketAt = 4 // in an answer, struct inet_diag_sockid: ports, then addresses of 16 bytes
	uidAt    = 64
	inodeAt  = 68
)

var errOtherSocket = errors.New("the answer is about another socket")

// socketOf asks the kernel for one socket by its two addresses.
func socketOf(from, to netip.AddrPort) (inode, uid uint32, err error) {
	request := make([]byte, requestSize)
	request[0], request[1] = unix.AF_INET, unix.IPPROTO_TCP
	if from.Addr().Is6() {
		request[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(request[4:], ^uint32(0)) // any state
	binary.BigEndian.PutUint16(request[8:], from.Port())
	binary.BigEndian.PutUint16(request[10:], to.Port())
	copy(request[12:28], from.Addr().AsSlice())
	copy(request[28:44], to.Addr().AsSlice())
	binary.NativeEndian.PutUint64(request[48:], ^uint64(0)) // no cookie

	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request}, Data: request,
	})
	if err != nil {
		return 0, 0, err
	}
	for _, a := range answers {
		// Where it finds no connection the kernel answers with a listener.
		if b := a.Data; len(b) >= answerSize && address(b, b[socketAt:], b[socketAt+4:]) == from && address(b, b[socketAt+2:], b[socketAt+20:]) == to {
			return binary.NativeEndian.Uint32(b[inodeAt:]), binary.NativeEndian.Uint32(b[uidAt:]), nil
		}
	}
	return 0, 0, errOtherSocket
}

func address(answer, port, ip []byte) netip.AddrPort {
	addr := netip.AddrFrom4([4]byte(ip[:4]))
	if answer[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(ip[:16])).Unmap()
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
}

// remembered is how many processes are tried before all others.
const remembered = 16

// holder finds the process that has the socket open: the first, where one has
// passed it on to others. Those are tried first that had one lately, then those
// of the socket's user.
func (f *Finder) holder(inode, uid uint32, until time.Time) (pid int64, exe string) {
	link := "socket:[" + strconv.Itoa(int(inode)) + "]"
	for i, pid := range slices.Backward(f.recent) {
		if exe, ok := holds(pid, link, until); ok {
			f.recent = append(slices.Delete(f.recent, i, i+1), pid)
			return int64(pid), exe
		}
	}
	folder, err := os.Open("/proc")
	if err != nil {
		return 0, ""
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(1 << 20)
	var others []int
	try := func(pid int) bool {
		var ok bool
		if exe, ok = holds(pid, link, until); ok {
			f.recent = append(f.recent[max(0, len(f.recent)-remembered+1):], pid)
		}
		return ok
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if info, err := os.Stat("/proc/" + name); err != nil || info.Sys().(*syscall.Stat_t).Uid != uid {
			others = append(others, pid)
			continue
		}
		if try(pid) {
			return int64(pid), exe
		}
	}
	for _, pid := range others {
		if try(pid) {
			return int64(pid), exe
		}
	}
	return 0, ""
}

// holds tells whether a process has the socket open, and which file it runs.
func holds(pid int, link string, until time.Time) (exe string, ok bool) {
	root := "/proc/" + strconv.Itoa(pid)
	folder, err := os.Open(filepath.Join(root, "fd"))
	if err != nil { // gone, or not ours to look into
		return "", false
	}
	defer folder.Close()
	for time.Now().Before(until) {
		names, err := folder.Readdirnames(128)
		for _, name := range names {
			descriptor := filepath.Join(root, "fd", name)
			if to, err := os.Readlink(descriptor); err != nil || to != link {
				continue
			}
			exe, _ := os.Readlink(filepath.Join(root, "exe"))
			// The number may have become another's meanwhile.
			if to, err := os.Readlink(descriptor); err != nil || to != link {
				return "", false
			}
			return exe, true
		}
		if err != nil {
			break
		}
	}
	return "", false
}
