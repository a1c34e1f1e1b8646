package proxy

import (
	"net"
	"sync/atomic"
	"time"

	"sallyport/proxy/guard"
)

// hearing reads what a client says. While that is a handshake, what goes beyond
// what everybody has is taken from a room that all clients share: a header block may
// be long, but thousands at once may not.
type hearing struct {
	conn  net.Conn
	all   *atomic.Int64 // bytes
	most  int64         // of all; 0: any number
	on    bool
	read  int64
	taken int64
}

// freely is what each handshake may take, in bytes: every one of SOCKS fits, and
// the header blocks of most requests do.
const freely = 4096

var errNoRoom = &guard.Refusal{Cause: "limit", Retry: time.Second, Why: "too many long header blocks are being read: see limits.memory"}

func (h *hearing) Read(p []byte) (int, error) {
	n, err := h.conn.Read(p)
	if !h.on {
		return n, err
	}
	h.read += int64(n)
	if more := h.read - freely - h.taken; more > 0 {
		h.taken += more
		if all := h.all.Add(more); h.most > 0 && all > h.most {
			return 0, errNoRoom
		}
	}
	return n, err
}

// begin says that a handshake begins.
func (h *hearing) begin() { h.on = true }

// end gives back what the handshake has taken: what is kept of it counts as any
// other memory.
func (h *hearing) end() {
	h.all.Add(-h.taken)
	h.on, h.read, h.taken = false, 0, 0
}
