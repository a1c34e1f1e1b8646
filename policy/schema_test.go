package policy

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestSchemas(t *testing.T) {
	for _, stage := range Stages() {
		path := "schemas/" + string(stage) + ".json"
		if *update {
			if err := os.WriteFile(path, Schema(stage), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(golden, Schema(stage)) {
			t.Errorf("%s is out of date (make golden): %v", path, err)
		}
	}
}

func TestScopeOf(t *testing.T) {
	for ip, want := range map[string]Scope{
		"8.8.8.8": ScopePublic, "127.0.0.1": ScopeLoopback, "10.1.2.3": ScopePrivate, "100.64.0.1": ScopeShared,
		"0.1.2.3": ScopeUnspecified, "169.254.169.254": ScopeMetadata, "169.254.1.1": ScopeLinkLocal,
		"224.0.0.1": ScopeMulticast, "240.0.0.1": ScopeReserved, "192.0.2.1": ScopeReserved, "198.19.0.1": ScopeReserved,
		"2606:4700::1": ScopePublic, "::1": ScopeLoopback, "::": ScopeUnspecified, "fe80::1": ScopeLinkLocal,
		"fd00::1": ScopePrivate, "ff02::1": ScopeMulticast, "2001:db8::1": ScopeReserved, "4000::1": ScopeReserved,
		"::ffff:10.0.0.1": ScopePrivate, "::ffff:8.8.8.8": ScopePublic, "::127.0.0.1": ScopeLoopback,
		"64:ff9b::10.0.0.1": ScopePrivate, "64:ff9b::8.8.8.8": ScopeReserved, "64:ff9b:1:7f00:0:100::": ScopeLoopback,
		"2002:7f00:1::": ScopeLoopback, "2001:0:808:808::80ff:fffe": ScopeLoopback, "fd00:ec2::254": ScopeMetadata,
	} {
		if got := ScopeOf(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: got %s, want %s", ip, got, want)
		}
	}
}
