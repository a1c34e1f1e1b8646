package geo

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"sallyport/policy"
)

const plenty = 1 << 30

// object and text shorten the fixtures.
type (
	object = mmdbtype.Map
	text   = mmdbtype.String
)

// built is a database of these records by network.
func built(t testing.TB, kind string, version int, records map[string]mmdbtype.DataType) []byte {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		DatabaseType: kind, IPVersion: version, RecordSize: 24, IncludeReservedNetworks: true,
		DisableIPv4Aliasing: strings.HasPrefix(kind, "dbip"), // as theirs are
		BuildEpoch:          time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for network, record := range records {
		_, prefix, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(prefix, record); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := tree.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func put(t testing.TB, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func opened(t testing.TB, files ...[]byte) *Databases {
	t.Helper()
	var paths []string
	for i, content := range files {
		paths = append(paths, put(t, filepath.Join(t.TempDir(), string(rune('a'+i))+".mmdb"), content))
	}
	d, err := Open(paths, plenty)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func locate(d *Databases, ip string) policy.Geo { return d.Locate(netip.MustParseAddr(ip)) }

var delft = object{
	"city":               object{"geoname_id": mmdbtype.Uint32(1), "names": object{"de": text("x"), "en": text("Delft")}},
	"continent":          object{"code": text("EU"), "names": object{"en": text("Europe")}},
	"country":            object{"iso_code": text("NL"), "is_in_european_union": mmdbtype.Bool(true)},
	"registered_country": object{"iso_code": text("DE")},
	"location":           object{"latitude": mmdbtype.Float64(52), "subdivisions": mmdbtype.Slice{text("x"), object{}}},
	"traits":             object{"autonomous_system_number": mmdbtype.Uint32(1103), "is_anycast": mmdbtype.Bool(false)},
}

func TestLayouts(t *testing.T) {
	d := opened(t, built(t, "GeoIP2-Enterprise", 6, map[string]mmdbtype.DataType{
		"192.0.2.0/25":   delft,
		"192.0.2.128/25": object{"registered_country": object{"iso_code": text("AU")}},
		"2001:db8::/33":  object{"country": object{"iso_code": text("FR")}},
	}))
	flat := opened(t, built(t, "dbip-city ipvAll", 6, map[string]mmdbtype.DataType{
		"192.0.2.0/25":  object{"country_code": text("NL"), "continent_code": text("EU"), "city": text("Delft"), "postcode": text("2611")},
		"2001:db8::/33": object{"autonomous_system_number": mmdbtype.Uint16(64500), "autonomous_system_organization": text("Doc & Sons")},
	}))
	for _, c := range []struct {
		in   *Databases
		ip   string
		want policy.Geo
	}{
		{d, "192.0.2.1", policy.Geo{Country: "NL", Continent: "EU", City: "Delft", ASN: 1103}},
		{d, "::ffff:192.0.2.1", policy.Geo{Country: "NL", Continent: "EU", City: "Delft", ASN: 1103}},
		{d, "192.0.2.129", policy.Geo{Country: "AU"}}, // only registered
		{d, "2001:db8::1", policy.Geo{Country: "FR"}},
		{d, "2001:db8:8000::1", policy.Geo{}},
		{d, "127.0.0.1", policy.Geo{}},
		{flat, "192.0.2.1", policy.Geo{Country: "NL", Continent: "EU", City: "Delft"}},
		{flat, "::ffff:192.0.2.1", policy.Geo{Country: "NL", Continent: "EU", City: "Delft"}},
		{flat, "2001:db8::1", policy.Geo{ASN: 64500, Organization: "Doc & Sons"}},
	} {
		if got := locate(c.in, c.ip); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.ip, got, c.want)
		}
	}
	if got := d.List(); len(got) != 1 || got[0].Type != "GeoIP2-Enterprise" || got[0].Built.Format(time.DateOnly) != "2026-06-01" ||
		!slices.Equal(got[0].Facts, []string{"country", "continent", "city", "asn"}) {
		t.Errorf("%+v", got)
	}
	if !d.Knows("city") || d.Knows("organization") {
		t.Error("what is known is not known")
	}
}

// TestFirstThatKnows: of each fact the first file that knows it has the word; a
// country that is only registered yields to one where the address is.
func TestFirstThatKnows(t *testing.T) {
	first := built(t, "A", 6, map[string]mmdbtype.DataType{
		"192.0.2.0/25":   object{"country_code": text("NL"), "city": text("Delft")},
		"192.0.2.128/25": object{"registered_country": object{"iso_code": text("AU")}},
	})
	second := built(t, "B", 4, map[string]mmdbtype.DataType{
		"192.0.2.0/24": object{"country_code": text("DE"), "continent_code": text("EU"), "city": text("Bonn"), "autonomous_system_number": mmdbtype.Uint32(1)},
	})
	d := opened(t, first, second)
	for ip, want := range map[string]policy.Geo{
		"192.0.2.1":   {Country: "NL", Continent: "EU", City: "Delft", ASN: 1},
		"192.0.2.129": {Country: "DE", Continent: "EU", City: "Bonn", ASN: 1},
		"2001:db8::1": {}, // and not an error of the file for IPv4
	} {
		if got := locate(d, ip); got != want {
			t.Errorf("%s: %+v, want %+v", ip, got, want)
		}
	}
}

// TestUnexpectedTypes: what has another type than it should is not known, and
// hides nothing of what is beside it.
func TestUnexpectedTypes(t *testing.T) {
	crowd := object{"iso_code": text("NL")}
	for i := range maxEntries {
		crowd[text(strings.Repeat("x", i+1))] = text("y")
	}
	long := text(strings.Repeat("x", maxText+1))
	for name, record := range map[string]mmdbtype.DataType{
		"scalars for maps": object{"country": text("NL"), "continent": mmdbtype.Uint32(7), "registered_country": mmdbtype.Bool(true), "traits": mmdbtype.Slice{}},
		"maps for scalars": object{"country_code": object{"iso_code": text("NL")}, "autonomous_system_organization": object{}, "autonomous_system_number": object{"x": text("y")}},
		"too many entries": object{"country": crowd},
		"numbers":          object{"country_code": mmdbtype.Uint32(7), "city": mmdbtype.Float64(1), "autonomous_system_number": text("AS1")},
		"deeper":           object{"city": object{"names": text("Delft")}, "country": object{"iso_code": object{"en": text("NL")}}},
		"lists":            object{"city": mmdbtype.Slice{text("Delft")}, "country": object{"iso_code": mmdbtype.Slice{text("NL")}}},
		"no sense":         object{"country_code": text("nl"), "continent_code": text("Europe"), "city": long, "autonomous_system_number": mmdbtype.Uint64(1 << 40)},
		"no text":          object{"country_code": text("\xff\xfe"), "city": text("a\xffb")},
		"not known":        object{"country_code": text("ZZ"), "registered_country": object{"iso_code": text("")}},
		"empty":            object{},
		"not even a map":   mmdbtype.Slice{text("NL")},
		"a text":           text("NL"),
	} {
		beside := object{"continent_code": text("EU")}
		if m, ok := record.(object); ok && m["continent_code"] == nil && m["continent"] == nil {
			m["zz"] = object{"deep": mmdbtype.Slice{object{}}}
			m["continent_code"] = text("EU")
		}
		d := opened(t, built(t, "x", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": record, "198.51.100.0/24": beside}))
		got := locate(d, "192.0.2.1")
		if m, ok := record.(object); ok && m["continent_code"] == text("EU") {
			if got.Continent != "EU" {
				t.Errorf("%s: what is beside it is not known: %+v", name, got)
			}
			got.Continent = ""
		}
		if got != (policy.Geo{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestRefusedFiles(t *testing.T) {
	dir := t.TempDir()
	good := built(t, "country", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": object{"country_code": text("NL")}})
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"empty.mmdb":   {nil, "cannot be read as a MaxMind DB"},
		"text.mmdb":    {[]byte("country,NL\n"), "cannot be read as a MaxMind DB"},
		"gzip.mmdb":    {[]byte("\x1f\x8b\x08\x00"), "is compressed"},
		"short.mmdb":   {good[:len(good)-40], ""},
		"begun.mmdb":   {good[len(good)/2:], ""},
		"nothing.mmdb": {built(t, "GeoIP2-Anonymous-IP", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": object{"is_anonymous": mmdbtype.Bool(true)}}), `"GeoIP2-Anonymous-IP" knows neither`},
		"version.mmdb": {bytes.Replace(good, []byte("ip_version\xa1\x06"), []byte("ip_version\xa1\x05"), 1), "is corrupt"},
		"format.mmdb":  {bytes.Replace(good, []byte("major_version\xa1\x02"), []byte("major_version\xa1\x03"), 1), "want 2"},
		"size.mmdb":    {bytes.Replace(good, []byte("record_size\xa1\x18"), []byte("record_size\xa1\x17"), 1), ""},
		// The root points to itself.
		"cycle.mmdb": {append(make([]byte, 6), good[6:]...), "is corrupt"},
	} {
		if bytes.Equal(c.content, good) {
			t.Fatalf("%s: nothing has changed", name)
		}
		path := put(t, filepath.Join(dir, name), c.content)
		_, err := Open([]string{path}, plenty)
		if err == nil || !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := put(t, filepath.Join(dir, "good.mmdb"), good)
	none := filepath.Join(dir, "none.mmdb")
	_, err := Open([]string{none, path, dir}, plenty)
	var at *FileError
	if !errors.As(err, &at) || at.Path != none || err.Error() != none+": no such file or directory\n"+dir+": is not a file" {
		t.Errorf("%v", err)
	}
	if _, err := Open([]string{path, path}, int64(len(good)*2-1)); err == nil || !strings.Contains(err.Error(), "limits.memory") {
		t.Errorf("more than there is room for: %v", err)
	}
	if _, err := Open([]string{path, path}, int64(len(good)*2)); err != nil {
		t.Error(err)
	}
	if d, err := Open(nil, 0); err != nil || locate(d, "192.0.2.1") != (policy.Geo{}) || d.Knows("country") {
		t.Error("no databases at all", err)
	}
}

// TestNoTree: branches that meet again have more ends than there is time for.
func TestNoTree(t *testing.T) {
	content := damageable(t)
	const depth, size = 20, 6 // bytes of a node
	for node := range depth {
		next := []byte{0, 0, byte(node + 1)}
		copy(content[node*size:], append(next, next...))
	}
	if _, err := judged(content); err == nil || !strings.Contains(err.Error(), "the search tree is none") {
		t.Errorf("%v", err)
	}
}

// TestReload: a good file takes the old one's place, and nothing else does.
func TestReload(t *testing.T) {
	in := func(country string) []byte {
		return built(t, "country", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": object{"country_code": text(country)}})
	}
	dir := t.TempDir()
	path := put(t, filepath.Join(dir, "country.mmdb"), in("NL"))
	d, err := Open([]string{path}, plenty)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(content []byte) { // as a careful updater does
		if err := os.Rename(put(t, path+".new", content), path); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what, country, refused string, fresh int) {
		t.Helper()
		replaced, err := d.Reload()
		if got := locate(d, "192.0.2.1").Country; got != country || len(replaced) != fresh {
			t.Errorf("%s: %s, %d are new", what, got, len(replaced))
		}
		refusal := d.List()[0].Refusal
		if (err != nil) != (refused != "") || (refusal != "") != (refused != "") || !strings.Contains(refusal, refused) || err != nil && err.Error() != path+": "+refusal {
			t.Errorf("%s: %v, refusal %q", what, err, refusal)
		}
	}
	expect("nothing has changed", "NL", "", 0)
	replace(in("DE"))
	expect("a new file", "DE", "", 1)
	replace(in("FR")[:300])
	expect("a short file", "DE", "cannot be read", 0)
	expect("and once more", "DE", "cannot be read", 0)
	replace(built(t, "GeoLite2-ASN", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": object{"autonomous_system_number": mmdbtype.Uint32(1)}}))
	expect("another kind", "DE", `"GeoLite2-ASN" knows no country`, 0)
	replace(built(t, "country", 4, map[string]mmdbtype.DataType{"192.0.2.0/24": object{"country_code": text("FR")}}))
	expect("for IPv4 only", "DE", "knows no IPv6 address", 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("no file", "DE", "no such file", 0)
	replace(in("FR"))
	expect("mended", "FR", "", 1)
	if err := os.Rename(path, path+".kept"); err != nil {
		t.Fatal(err)
	}
	expect("gone", "FR", "no such file", 0)
	if err := os.Rename(path+".kept", path); err != nil {
		t.Fatal(err)
	}
	expect("back", "FR", "", 0)
	put(t, path, nil) // cut short in place, while it answers
	expect("cut short", "FR", "cannot be read", 0)
	put(t, path, in("BE"))
	expect("written in place", "BE", "", 1)
}

// TestReplacedWhileLookingUp is for the race detector.
func TestReplacedWhileLookingUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "country.mmdb")
	var contents [][]byte
	for _, country := range []string{"NL", "DE"} {
		contents = append(contents, built(t, "x", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": object{"country_code": text(country), "city": text(country)}}))
	}
	put(t, path, contents[0])
	d, err := Open([]string{path}, plenty)
	if err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if g := locate(d, "192.0.2.1"); g.Country == "" || g.Country != g.City {
					t.Errorf("%+v", g)
					return
				}
				d.List()
			}
		})
	}
	for i := range 50 {
		if err := os.Rename(put(t, path+".new", contents[(i+1)%2]), path); err != nil {
			t.Fatal(err)
		}
		if replaced, err := d.Reload(); err != nil || len(replaced) != 1 {
			t.Fatal(replaced, err)
		}
	}
	close(stop)
	asking.Wait()
}

func damageable(t testing.TB) []byte {
	return built(t, "GeoIP2-City", 6, map[string]mmdbtype.DataType{
		"192.0.2.0/24":    delft,
		"198.51.100.0/24": object{"country_code": text("NL"), "autonomous_system_number": mmdbtype.Uint32(7)},
		"2001:db8::/32":   object{"city": text("Delft"), "country": object{"iso_code": text("NL")}},
	})
}

// answers looks up in a damaged database, unless it is refused. A panic, or an
// error that was not found before, fails the test.
func answers(t *testing.T, content []byte) (accepted bool) {
	d, err := judged(content)
	if err != nil {
		return false
	}
	for _, ip := range []string{"192.0.2.1", "198.51.100.1", "2001:db8::1", "0.0.0.0", "255.255.255.255", "::", "ffff::1", "2002:c000:201::"} {
		addr := netip.MustParseAddr(ip)
		d.lookup(addr, &record{})
		if d.reader.Metadata.IPVersion == 4 && addr.Is6() {
			continue
		}
		if err := d.reader.Lookup(addr).Decode(&record{}); err != nil {
			t.Errorf("%s in an accepted database: %v", ip, err)
		}
	}
	return true
}

// TestDamaged tries each length and two damages to each byte.
func TestDamaged(t *testing.T) {
	good := damageable(t)
	for n := range good {
		if answers(t, good[:n:n]) {
			t.Errorf("the first %d of %d bytes are accepted", n, len(good))
		}
		for _, flip := range []byte{0xff, 1 << (n % 8)} {
			content := slices.Clone(good)
			content[n] ^= flip
			answers(t, content)
		}
	}
	if !answers(t, good) {
		t.Error("what is not damaged is refused")
	}
}

// FuzzOpen damages a database in several places.
func FuzzOpen(f *testing.F) {
	good := damageable(f)
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0, 0, 0xff, 1, 1, 0x80}, uint16(10))
	f.Fuzz(func(t *testing.T, damage []byte, cut uint16) {
		content := slices.Clone(good)
		for ; len(damage) >= 3; damage = damage[3:] {
			content[(int(damage[0])<<8|int(damage[1]))%len(content)] = damage[2]
		}
		answers(t, append(content[:int(cut)%len(content)], content[(int(cut)+len(damage))%len(content):]...))
	})
}

func BenchmarkLocate(b *testing.B) {
	nested := built(b, "GeoLite2-City", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": delft})
	asn := built(b, "GeoLite2-ASN", 6, map[string]mmdbtype.DataType{
		"192.0.2.0/24": object{"autonomous_system_number": mmdbtype.Uint32(1), "autonomous_system_organization": text("Example")},
	})
	flat := built(b, "country", 6, map[string]mmdbtype.DataType{"192.0.2.0/24": object{"country_code": text("NL")}})
	for _, c := range []struct {
		name string
		d    *Databases
		ip   string
	}{
		{"country", opened(b, flat), "192.0.2.1"},
		{"city and asn", opened(b, nested, asn), "192.0.2.1"},
		{"unknown", opened(b, nested, asn), "198.51.100.1"},
	} {
		b.Run(c.name, func(b *testing.B) {
			ip := netip.MustParseAddr(c.ip)
			b.ReportAllocs()
			for b.Loop() {
				c.d.Locate(ip)
			}
		})
	}
}
