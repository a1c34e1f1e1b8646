package dial

import (
	"testing"

	"github.com/miekg/dns"
)

// Whatever a server says: what is taken in has its bounds, and belongs to the
// question.
func FuzzAnswer(f *testing.F) {
	for _, records := range [][]string{
		{"$ 60 A 127.0.0.1", "$ AAAA ::1"},
		{"$ CNAME one.example.", "one.example. CNAME two.example.", "two.example. 5 A 127.0.0.1", "other.example. A 127.0.0.66"},
		{"$ CNAME $"},
		{`$ CNAME a\.b.example.`, "$ CH A 127.0.0.1"},
	} {
		m := new(dns.Msg)
		m.SetQuestion("name.example.", dns.TypeA)
		m.Response = true
		add(m, records...)
		m.Ns = append(m.Ns, record(m, "example. 300 SOA ns.example. host.example. 1 1 1 1 40"))
		m.SetEdns0(udpSize, false)
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		m := new(dns.Msg)
		if m.Unpack(packed) != nil {
			return
		}
		query := new(dns.Msg)
		query.SetQuestion("name.example.", dns.TypeA)
		query.Id = m.Id
		if !repliesTo(query, m) {
			return
		}
		a := readAnswer(question{"name.example.", dns.TypeA}, m)
		if (len(a.addresses) == 0) != (a.failure != nil) || len(a.addresses) > maxAddresses || len(a.names) > maxAliases || a.ttl < 0 {
			t.Fatalf("%+v", a)
		}
		for _, ip := range a.addresses {
			if !ip.Is4() {
				t.Fatalf("%s in answer to A", ip)
			}
		}
		for _, name := range a.names {
			if !isHostName(name) {
				t.Fatalf("the alias %q", name)
			}
		}
	})
}
