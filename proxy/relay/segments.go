package relay

import (
	"encoding/binary"
	"errors"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Most of what sending costs is the way of each datagram through the kernel.
// Datagrams of one size to one peer, as a transfer has them, go that way as one
// that the kernel, or the network card, cuts into segments (UDP_SEGMENT, udp(7)).

const (
	maxSegments = 32 // of which the kernel takes 64
	maxJoined   = 60_000
)

// outbox is what is to be sent by one socket.
type outbox struct {
	datagrams [batchSize]ipv4.Message
	sizes     [batchSize]int // what counts of each
	n         int

	joined [batchSize]ipv4.Message
	first  [batchSize + 1]int // which datagram each begins with
	cuts   [batchSize][]byte  // control messages
	parts  [batchSize][]byte  // of all that are joined
}

// add puts a datagram in; to is nil where the socket has but one peer.
func (o *outbox) add(datagram []byte, size int, to *net.UDPAddr) {
	m := &o.datagrams[o.n]
	if m.Buffers == nil {
		m.Buffers = make([][]byte, 1)
	}
	m.Buffers[0], m.Addr = datagram, nil
	if to != nil {
		m.Addr = to
	}
	o.sizes[o.n] = size
	o.n++
}

func (o *outbox) clear() {
	for i := range o.n {
		o.datagrams[i].Buffers[0], o.datagrams[i].Addr = nil, nil
		o.joined[i] = ipv4.Message{}
		o.parts[i] = nil
	}
	o.n = 0
}

// join makes messages of the first datagrams, and returns how many.
func (o *outbox) join(most int) int {
	count := 0
	for i := 0; i < most; count++ {
		first := &o.datagrams[i]
		size := len(first.Buffers[0])
		begin, total := i, 0
		for ; i < most && i-begin < maxSegments; i++ {
			next := &o.datagrams[i]
			n := len(next.Buffers[0])
			if next.Addr != first.Addr || n > size || n == 0 && i > begin || total+n > maxJoined && i > begin {
				break
			}
			o.parts[i] = next.Buffers[0]
			if total += n; n < size { // only the last may be shorter
				i++
				break
			}
		}
		m := &o.joined[count]
		m.Buffers, m.Addr, m.OOB = o.parts[begin:i], first.Addr, nil
		if i-begin > 1 {
			m.OOB = o.cut(count, size)
		}
		o.first[count] = begin
	}
	o.first[count] = most
	return count
}

// cut is the control message (cmsg(3)) that has a message cut into datagrams of
// a size.
func (o *outbox) cut(i, size int) []byte {
	b := o.cuts[i]
	if b == nil {
		b = make([]byte, unix.CmsgSpace(2))
		if length := unix.CmsgLen(2); unix.SizeofCmsghdr == 16 {
			binary.NativeEndian.PutUint64(b, uint64(length))
		} else {
			binary.NativeEndian.PutUint32(b, uint32(length))
		}
		binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-8:], unix.SOL_UDP)
		binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-4:], unix.UDP_SEGMENT)
		o.cuts[i] = b
	}
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b
}

// send sends up to most of the datagrams, and returns how many have gone and
// what counts of them. One that is not taken is lost.
func (s *socket) send(o *outbox, most int) (sent int, size int64) {
	if !s.single.Load() {
		count := o.join(most)
		for at := 0; at < count; {
			n := s.write(o.joined[at:count])
			if n < 0 {
				return sent, size
			}
			for i := o.first[at]; i < o.first[at+n]; i++ {
				size += int64(o.sizes[i])
				sent++
			}
			if at += n; at == count {
				break
			}
			// The next is not taken. If its parts are, it was for being one: larger
			// than the way there, or than the network card can cut.
			begin, end := o.first[at], o.first[at+1]
			if end-begin > 1 {
				alone, bytes := s.sendSingle(o, begin, end)
				sent, size = sent+alone, size+bytes
				if alone > 0 {
					s.single.Store(true)
				}
			}
			at++
		}
		return sent, size
	}
	return s.sendSingle(o, 0, most)
}

// sendSingle sends datagrams each for itself.
func (s *socket) sendSingle(o *outbox, at, end int) (sent int, size int64) {
	for at < end {
		n := s.write(o.datagrams[at:end])
		if n < 0 {
			return sent, size
		}
		for i := at; i < at+n; i++ {
			size += int64(o.sizes[i])
			sent++
		}
		at += n + 1 // one that is not taken is left out
	}
	return sent, size
}

// write writes as many messages as will go at once, which may be none; less than
// that where the socket is closed.
func (s *socket) write(messages []ipv4.Message) int {
	n, err := s.packets.WriteBatch(messages, unix.MSG_DONTWAIT)
	if errors.Is(err, unix.ECONNREFUSED) { // that is said of an earlier datagram
		n, err = s.packets.WriteBatch(messages, unix.MSG_DONTWAIT)
	}
	switch {
	case err == nil:
		return n
	case errors.Is(err, net.ErrClosed):
		return -1
	}
	return 0
}
