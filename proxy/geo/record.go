package geo

import (
	"unicode/utf8"

	"github.com/oschwald/maxminddb-golang/v2/mmdbdata"

	"sallyport/policy"
)

const (
	maxEntries = 256 // of one map; those of the widest records have some dozens
	maxText    = 256 // bytes of a name
)

// record gathers what one database after the other knows of an address. What is
// known already stays. What has another type than it should, or no sense, is
// taken for unknown.
//
// MaxMind's layout (GeoIP2, GeoLite2, and DB-IP's own downloads):
//
//	country             {iso_code: "NL"}
//	registered_country  {iso_code: "NL"}
//	continent           {code: "EU"}
//	city                {names: {en: "Delft"}}
//	traits              {autonomous_system_number: 1103, autonomous_system_organization: "SURF"}
//
// The flat layout (DB-IP and others, as npm has them, and all ASN databases):
//
//	country_code                    "NL"
//	continent_code                  "EU"
//	city                            "Delft"
//	autonomous_system_number        1103
//	autonomous_system_organization  "SURF"
type record struct {
	policy.Geo
	registered string // the country in which the address is registered
}

// geo is what is known in the end. An address that no database places anywhere,
// as is the case of many anycast networks, is in the country where it is
// registered: else a rule that keeps a country out would let it through.
func (r *record) geo() policy.Geo {
	g := r.Geo
	if g.Country == "" {
		g.Country = r.registered
	}
	return g
}

// factsOf names what is not empty.
func factsOf(g policy.Geo) []string {
	facts := []string{}
	for _, fact := range []struct {
		name  string
		known bool
	}{
		{"country", g.Country != ""}, {"continent", g.Continent != ""}, {"city", g.City != ""},
		{"asn", g.ASN != 0}, {"organization", g.Organization != ""},
	} {
		if fact.known {
			facts = append(facts, fact.name)
		}
	}
	return facts
}

// UnmarshalMaxMindDBCursor reads one record; the error is that the file is
// corrupt.
func (r *record) UnmarshalMaxMindDBCursor(at mmdbdata.Cursor) (mmdbdata.Cursor, error) {
	return entries(at, func(key []byte, value mmdbdata.Cursor) (mmdbdata.Cursor, error) {
		switch string(key) {
		case "country":
			return below(value, "iso_code", &r.Country, code)
		case "registered_country":
			return below(value, "iso_code", &r.registered, code)
		case "continent":
			return below(value, "code", &r.Continent, code)
		case "city":
			if kind, err := value.Kind(); err == nil && kind == mmdbdata.KindString {
				return name(value, &r.City)
			}
			return entries(value, func(key []byte, value mmdbdata.Cursor) (mmdbdata.Cursor, error) {
				if string(key) == "names" {
					return below(value, "en", &r.City, name)
				}
				return value.Skip()
			})
		case "traits":
			return entries(value, r.system)
		case "country_code":
			return code(value, &r.Country)
		case "continent_code":
			return code(value, &r.Continent)
		}
		return r.system(key, value)
	})
}

// system reads an entry about the autonomous system.
func (r *record) system(key []byte, value mmdbdata.Cursor) (mmdbdata.Cursor, error) {
	switch string(key) {
	case "autonomous_system_number":
		return number(value, &r.ASN)
	case "autonomous_system_organization":
		return name(value, &r.Organization)
	}
	return value.Skip()
}

// The functions below read the value at a cursor and return what follows it.

// entries visits the entries of a map, and skips what is none.
func entries(at mmdbdata.Cursor, visit func(key []byte, value mmdbdata.Cursor) (mmdbdata.Cursor, error)) (mmdbdata.Cursor, error) {
	m, err := at.Map()
	if err != nil || m.Size() > maxEntries {
		return at.Skip()
	}
	var next mmdbdata.Cursor
	for {
		key, value, ok := m.Next(next)
		if !ok {
			return m.End()
		}
		if next, err = visit(key, value); err != nil {
			return mmdbdata.Cursor{}, err
		}
	}
}

// below reads the entry of a map that has the key.
func below(at mmdbdata.Cursor, key string, to *string, read func(mmdbdata.Cursor, *string) (mmdbdata.Cursor, error)) (mmdbdata.Cursor, error) {
	return entries(at, func(found []byte, value mmdbdata.Cursor) (mmdbdata.Cursor, error) {
		if string(found) == key {
			return read(value, to)
		}
		return value.Skip()
	})
}

// name reads a text.
func name(at mmdbdata.Cursor, to *string) (mmdbdata.Cursor, error) {
	text, next, err := at.ReadStringMaxSize(maxText)
	if err != nil {
		return at.Skip()
	}
	if *to == "" && utf8.ValidString(text) {
		*to = text
	}
	return next, nil
}

// code reads two letters. Some databases write ZZ for what they do not know.
func code(at mmdbdata.Cursor, to *string) (mmdbdata.Cursor, error) {
	text, next, err := at.ReadStringMaxSize(2)
	if err != nil {
		return at.Skip()
	}
	if *to == "" && len(text) == 2 && isCapital(text[0]) && isCapital(text[1]) && text != "ZZ" {
		*to = text
	}
	return next, nil
}

func isCapital(b byte) bool { return 'A' <= b && b <= 'Z' }

// number reads an autonomous system's, which has 32 bits.
func number(at mmdbdata.Cursor, to *int64) (mmdbdata.Cursor, error) {
	n, next, err := at.ReadUint()
	if err != nil {
		return at.Skip()
	}
	if *to == 0 && n < 1<<32 {
		*to = int64(n)
	}
	return next, nil
}
