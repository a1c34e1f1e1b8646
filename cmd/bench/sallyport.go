package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// allowAll lets everybody everywhere, without a password: what is left is the
// proxy itself.
var allowAll = map[string]string{
	"admit":        "allow := true\n\nmethods := {\"none\"}\n",
	"authenticate": "allow := true\n",
	"route":        "allow := true\n",
	"dial":         "allow := true\n",
}

// writeAllowAll makes a policy folder. It has nothing else in it: a running
// sallyport wakes at every change below it.
func writeAllowAll(dir string) error {
	for stage, rules := range allowAll {
		if err := write(filepath.Join(dir, stage+".rego"), "package sallyport."+stage+"\n\n"+rules); err != nil {
			return err
		}
	}
	return nil
}

// A user of the egress example, with the password that is told there.
const (
	egressUser     = "billing"
	egressPassword = "pays-bills-on-time"
)

// egressOptions say how the egress example is run.
type egressOptions struct {
	example string // its folder
	entries int    // domains on its list
}

// geofence is for GeoIP what the example has no rule for.
const geofence = `package sallyport.dial

deny contains sprintf("%s is in %s", [input.address.ip, input.address.geo.country]) if {
	data.egress.countries[input.address.geo.country]
}
`

// Where the target is by the database, and a country in which it is not.
const (
	targetCountry = "NL"
	otherCountry  = "XX"
)

// writeCountries makes a database that knows the networks of the targets.
func writeCountries(path string, targets []netip.AddrPort) error {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "country", IncludeReservedNetworks: true})
	if err != nil {
		return err
	}
	for _, to := range targets {
		bits := to.Addr().BitLen() / 4 * 3 // as long as such a database has many
		network := net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(bits, to.Addr().BitLen())}
		record := mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(targetCountry)}}
		if err := tree.Insert(&network, record); err != nil {
			return err
		}
	}
	var database bytes.Buffer
	if _, err := tree.WriteTo(&database); err != nil {
		return err
	}
	return write(path, database.String())
}

// writeEgress makes a policy folder of the example: as it is, but with long
// lists, with a country that is refused, and with the target reachable, though it
// is on loopback.
func writeEgress(dir string, with egressOptions, targets []netip.AddrPort) error {
	if err := os.CopyFS(dir, os.DirFS(with.example)); err != nil {
		return fmt.Errorf("the egress example: %w", err)
	}
	dial := filepath.Join(dir, "sallyport", "dial", "dial.rego")
	rules, err := os.ReadFile(dial)
	if err != nil {
		return fmt.Errorf("the egress example: %w", err)
	}
	const loopback = `"loopback", `
	if strings.Count(string(rules), loopback) != 1 {
		return fmt.Errorf("%s: its deny does not name %s once", dial, loopback)
	}
	if err := write(dial, strings.Replace(string(rules), loopback, "", 1)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "egress", "data.yaml")); err != nil {
		return fmt.Errorf("the egress example: %w", err)
	}
	data, err := json.Marshal(egressData(with.entries, targets))
	if err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "sallyport", "dial", "geofence.rego"), geofence); err != nil {
		return err
	}
	return write(filepath.Join(dir, "egress", "data.json"), string(data))
}

func egressData(entries int, targets []netip.AddrPort) any {
	type object = map[string]any
	domains, networks := object{}, object{}
	for i := range entries {
		domains[fmt.Sprintf("service-%d.example.com", i)] = object{}
	}
	for _, to := range targets {
		network := netip.PrefixFrom(to.Addr(), to.Addr().BitLen())
		networks[network.String()] = object{"ports": []uint16{to.Port()}}
	}
	return object{
		"ports":          []int{443},
		"countries":      object{otherCountry: true},
		"blocked":        object{"gist.github.com": "anybody can put anything there"},
		"session_limits": object{"idle": "5m", "duration": "4h"},
		"groups":         object{"services": object{"networks": networks}},
		"identities": object{egressUser: object{
			"domains": domains, "labels": object{"team": "finance", "kind": "service"},
		}},
	}
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}
