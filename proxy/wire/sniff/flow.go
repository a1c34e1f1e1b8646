package sniff

import (
	"bytes"
	"strings"
)

// Flow is what the first bytes of a client's flow show.
type Flow struct {
	Protocol   string   // tls, http, ssh or unknown; none of no bytes at all
	ServerName string   // TLS: the name asked for, in lower case
	ALPN       []string // TLS: the protocols offered
	Host       string   // HTTP: the host asked for, in lower case and without its port
}

// MaxFlow is how many first bytes tell enough, or never will.
const MaxFlow = 16 << 10

// Inspect says what the first bytes of a flow show, and whether more of them
// could show more. What is said of bytes that more follow is what is certain, so
// that of a message which never ends the protocol is known and the names are
// empty. Nothing is kept of b.
//
// Of TLS that is its ClientHello (RFC 8446 section 4.1.2), over as many records as
// it takes; of HTTP/1.1 the head of its first request (RFC 9112 section 3.2); of
// SSH its identification (RFC 4253 section 4.2).
func Inspect(b []byte) (f Flow, more bool) { return new(Look).At(b) }

// Look is at the first bytes of a flow while they come. A stranger may send them one
// at a time, so each is looked at once, however many come before the next look. The
// zero value has seen none.
type Look struct {
	at int // bytes that are done with

	// TLS: of the record that is being read, and of the handshake message in the records.
	left    int // bytes that are yet to be seen
	message int // bytes that have been seen
	head    [4]byte

	// HTTP
	searched int // bytes in which no line ends but those that are done with
	begun    bool
	target   string
	host     string
	hosts    int
}

// At is [Inspect] of all bytes that there are by now: those of the look before,
// unchanged, and what has come since. It is not asked again once no more could show
// more.
func (l *Look) At(b []byte) (f Flow, more bool) {
	if len(b) == 0 {
		return Flow{Protocol: "none"}, true
	}
	switch {
	case b[0] == 22:
		f, more = l.tls(b)
	case bytes.HasPrefix(b, []byte("SSH-")):
		return Flow{Protocol: "ssh"}, false
	case len(b) < 4 && bytes.HasPrefix([]byte("SSH-"), b):
		f, more = Flow{Protocol: "unknown"}, true
	default:
		f, more = l.http(b)
	}
	return f, more && len(b) < MaxFlow
}

// tls looks for the end of the first handshake message.
func (l *Look) tls(b []byte) (Flow, bool) {
	unknown, tls := Flow{Protocol: "unknown"}, Flow{Protocol: "tls"}
	for {
		if l.left == 0 {
			header := b[l.at:]
			if len(header) > 0 && header[0] != 22 || len(header) > 1 && header[1] != 3 {
				return either(l.at == 0, unknown, tls), false
			}
			if len(header) < 5 {
				return either(l.at == 0 && len(header) < 2, unknown, tls), true
			}
			size := recordSize(header)
			if size == 0 || size > 1<<14 {
				return tls, false
			}
			l.at, l.left = l.at+5, size
		}
		part := b[l.at:min(l.at+l.left, len(b))]
		copy(l.head[min(l.message, 4):], part)
		l.at, l.left, l.message = l.at+len(part), l.left-len(part), l.message+len(part)
		if l.message > 0 && l.head[0] != 1 {
			return tls, false // another message than a ClientHello
		}
		if whole := 4 + (int(l.head[1])<<16 | int(l.head[2])<<8 | int(l.head[3])); l.message >= 4 && l.message >= whole {
			return helloOf(join(b, whole)[4:]), false
		}
		if l.left > 0 {
			return tls, true
		}
	}
}

// join is so many bytes of what is in the records, which have as many.
func join(records []byte, size int) []byte {
	message := make([]byte, 0, size)
	for len(message) < size {
		n := min(recordSize(records), size-len(message))
		message = append(message, records[5:5+n]...)
		records = records[5+n:]
	}
	return message
}

// recordSize is how much is in a record, by its header.
func recordSize(header []byte) int { return int(header[3])<<8 | int(header[4]) }

func either(first bool, a, b Flow) Flow {
	if first {
		return a
	}
	return b
}

// fields reads a message's fields from its front; once one is missing, all are.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) take(n int) []byte {
	if f.bad || n > len(f.rest) {
		f.bad = true
		return nil
	}
	out := f.rest[:n]
	f.rest = f.rest[n:]
	return out
}

// vector takes one whose length is written in so many bytes before it.
func (f *fields) vector(lengthBytes int) []byte {
	n := 0
	for _, b := range f.take(lengthBytes) {
		n = n<<8 | int(b)
	}
	return f.take(n)
}

func (f *fields) number() int {
	b := f.take(2)
	if b == nil {
		return -1
	}
	return int(b[0])<<8 | int(b[1])
}

// helloOf reads a ClientHello. One that is not well formed, or says something
// twice, says nothing: a server might take it for something else.
func helloOf(hello []byte) Flow {
	nothing := Flow{Protocol: "tls"}
	f := fields{rest: hello}
	f.take(2 + 32) // version and random
	f.vector(1)    // session id
	f.vector(2)    // cipher suites
	f.vector(1)    // compression methods
	if f.bad {
		return nothing
	}
	if len(f.rest) == 0 {
		return nothing // RFC 5246 allows a hello without extensions
	}
	extensions := fields{rest: f.vector(2)}
	if f.bad || len(f.rest) > 0 {
		return nothing
	}
	found := nothing
	seen := map[int]bool{}
	for len(extensions.rest) > 0 {
		kind := extensions.number()
		body := fields{rest: extensions.vector(2)}
		if extensions.bad || seen[kind] {
			return nothing
		}
		seen[kind] = true
		ok := true
		switch kind {
		case 0:
			found.ServerName, ok = serverName(&body)
		case 16:
			found.ALPN, ok = protocols(&body)
		}
		if !ok {
			return nothing
		}
	}
	return found
}

// serverName reads RFC 6066 section 3: a list of one name.
func serverName(body *fields) (string, bool) {
	list := fields{rest: body.vector(2)}
	kind := list.take(1)
	name := list.vector(2)
	if body.bad || list.bad || len(body.rest) > 0 || len(list.rest) > 0 || kind[0] != 0 {
		return "", false
	}
	return hostName(string(name))
}

// protocols reads RFC 7301 section 3.1.
func protocols(body *fields) (names []string, ok bool) {
	list := fields{rest: body.vector(2)}
	for len(list.rest) > 0 && !list.bad {
		name := list.vector(1)
		if !printable(string(name)) {
			return nil, false
		}
		names = append(names, string(name))
	}
	return names, !body.bad && !list.bad && len(body.rest) == 0
}

func hostName(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 || !printable(name) {
		return "", false
	}
	return strings.ToLower(name), true
}

// printable keeps what a stranger sends out of logs as far as it is not ASCII.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return text != ""
}

// http reads the head of a request, as far as it is there.
func (l *Look) http(b []byte) (Flow, bool) {
	unknown, http := Flow{Protocol: "unknown"}, Flow{Protocol: "http"}
	for {
		end := bytes.IndexByte(b[l.searched:], '\n')
		if end < 0 {
			l.searched = len(b)
			if !l.begun {
				return unknown, mayBeMethod(b)
			}
			return http, true
		}
		end += l.searched
		line := strings.TrimSuffix(string(b[l.at:end]), "\r")
		l.at, l.searched = end+1, end+1
		if !l.begun {
			l.begun = true
			method, after, _ := strings.Cut(line, " ")
			target, version, _ := strings.Cut(after, " ")
			if !isToken(method) || strings.ContainsFunc(target, isControl) || !strings.HasPrefix(version, "HTTP/") || len(version) != len("HTTP/1.1") {
				return unknown, false
			}
			if method == "PRI" { // HTTP/2, whose head is not text
				return http, false
			}
			l.target = target
			continue
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || strings.ContainsFunc(value, isControl) {
			return http, false // obsolete folding, or what some take for a line's end
		}
		if strings.EqualFold(name, "Host") {
			l.host = strings.Trim(value, " \t")
			l.hosts++
		}
	}
	if l.hosts > 1 {
		return http, false
	}
	host := l.host
	if scheme, after, absolute := strings.Cut(l.target, "://"); absolute && isToken(scheme) {
		// It overrules the field: RFC 9112 section 3.2.2.
		authority := after
		if i := strings.IndexAny(after, "/?#"); i >= 0 {
			authority = after[:i]
		}
		host = authority[strings.LastIndexByte(authority, '@')+1:]
	}
	http.Host, _ = hostName(withoutPort(host))
	return http, false
}

func withoutPort(host string) string {
	if strings.HasPrefix(host, "[") {
		inner, _, _ := strings.Cut(host[1:], "]")
		return inner
	}
	name, _, _ := strings.Cut(host, ":")
	return name
}

// mayBeMethod tells whether a line that goes on may begin a request.
func mayBeMethod(line []byte) bool {
	const most = 32
	method, _, _ := bytes.Cut(line[:min(len(line), most+1)], []byte(" "))
	return len(method) <= most && isToken(string(method))
}

func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

func isToken(text string) bool {
	for i := range len(text) {
		c := text[i]
		if c <= ' ' || c > '~' || strings.IndexByte("()<>@,;:\\\"/[]?={}", c) >= 0 {
			return false
		}
	}
	return text != ""
}
