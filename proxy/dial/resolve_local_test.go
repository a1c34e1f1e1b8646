package dial

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const hosts = `
127.0.0.1	localhost Own.Name. # a comment
::1 localhost
::ffff:10.0.0.1 mapped
fe80::1%eth0 zone
10.0.0.2   own.name own.name
not-an-ip  broken
10.0.0.3
10.0.0.4 bad..name a\.b good
#10.0.0.5 commented
`

func TestParseHosts(t *testing.T) {
	got := parseHosts([]byte(hosts))
	for name, want := range map[string][]string{
		"localhost": {"127.0.0.1", "::1"}, "own.name": {"127.0.0.1", "10.0.0.2", "10.0.0.2"}, "mapped": {"10.0.0.1"},
		"zone": {"fe80::1"}, "broken": nil, "good": {"10.0.0.4"}, "commented": nil, "bad..name": nil, `a\.b`: nil,
	} {
		var texts []string
		for _, ip := range got[name] {
			texts = append(texts, ip.String())
		}
		if !slices.Equal(texts, want) {
			t.Errorf("%s: got %v, want %v", name, texts, want)
		}
	}
}

func TestParseResolv(t *testing.T) {
	for text, want := range map[string][]string{
		"search a\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver x\nnameserver 192.0.2.2\nnameserver 192.0.2.3\noptions ndots:5": {
			"192.0.2.1:53", "[fe80::1%eth0]:53", "192.0.2.2:53"},
		"":              {"127.0.0.1:53", "[::1]:53"},
		"options edns0": {"127.0.0.1:53", "[::1]:53"},
	} {
		var got []string
		for _, s := range parseResolv([]byte(text)) {
			got = append(got, s.Address.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// Names that are not for the DNS are answered here, and no server hears of them.
func TestLocalNames(t *testing.T) {
	s := serveNames(t, of("$ A 192.0.2.66", "$ AAAA 2001:db8::66"))
	for _, test := range []struct {
		family  Family
		name    string
		want    []string
		outcome string
	}{
		{AnyFamily, "own.name", []string{"10.0.0.2", "127.0.0.1"}, ""},
		{AnyFamily, "OWN.name.", []string{"10.0.0.2", "127.0.0.1"}, ""},
		{IPv6, "own.name", nil, "nodata"},
		{IPv6, "localhost", []string{"::1"}, ""},
		{AnyFamily, "localhost", []string{"127.0.0.1", "::1"}, ""},
		{AnyFamily, "any.localhost", []string{"127.0.0.1", "::1"}, ""},
		{AnyFamily, "invalid", nil, "nxdomain"},
		{AnyFamily, "any.invalid", nil, "nxdomain"},
		{AnyFamily, "any.onion", nil, "nxdomain"},
		{AnyFamily, "any.alt", nil, "nxdomain"},
		{AnyFamily, "onion.example", []string{"192.0.2.66", "2001:db8::66"}, ""},
		{AnyFamily, "notinvalid", []string{"192.0.2.66", "2001:db8::66"}, ""},
	} {
		r := resolving(t, ResolverOptions{Servers: []Server{s.over(UDP)}, Family: test.family})
		r.hosts = func() map[string][]netip.Addr { return parseHosts([]byte(hosts)) }
		before := len(s.questions())
		got, err := r.Lookup(t.Context(), test.name)
		outcome := ""
		var failed *LookupError
		if errors.As(err, &failed) {
			outcome = failed.Outcome
		}
		if !slices.Equal(texts(got), test.want) || outcome != test.outcome {
			t.Errorf("%s: got %v, %v; want %v %s", test.name, texts(got), err, test.want, test.outcome)
		}
		if asked := len(s.questions()) > before; asked == got.Cached {
			t.Errorf("%s: a server was asked: %v", test.name, asked)
		}
	}
}

func TestLookupOfTheSystem(t *testing.T) {
	r := NewResolver(ResolverOptions{Timeout: time.Second})
	defer r.Close()
	got, err := r.Lookup(t.Context(), "localhost")
	if err != nil || !got.Addresses[0].IP.IsLoopback() {
		t.Fatalf("got %v, %v", got, err)
	}
	if len(r.servers()) == 0 {
		t.Error("there are no servers")
	}
}

// A file that changes is read again; one that goes away leaves what it said.
func TestPolled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	synctest.Test(t, func(t *testing.T) {
		read := polled(path, func(file []byte) string { return string(file) })
		write := func(text string) {
			if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(want string) {
			t.Helper()
			if got := read(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		expect("")
		write("one")
		expect("") // not yet
		time.Sleep(pollEvery)
		expect("one")
		write("two")
		time.Sleep(pollEvery)
		expect("two")
		os.Remove(path)
		time.Sleep(pollEvery)
		expect("two")
	})
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte(hosts))
	f.Fuzz(func(t *testing.T, file []byte) {
		for name, addresses := range parseHosts(file) {
			if !isHostName(name) || len(addresses) == 0 || len(addresses) > 2*maxAddresses {
				t.Fatalf("%q: %v", name, addresses)
			}
		}
		parseResolv(file)
	})
}
