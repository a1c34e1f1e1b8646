package socks5

import (
	"bufio"
	"net/netip"
	"strings"
	"testing"
)

// BenchmarkHandshake reads all that a client sends who logs in and asks for a
// name, and writes all answers.
func BenchmarkHandshake(b *testing.B) {
	var sent []byte
	sent = AppendGreeting(sent, NoAuth, UserPass)
	sent, err := AppendCredentials(sent, Credentials{"billing", "pays-bills-on-time"})
	if err != nil {
		b.Fatal(err)
	}
	sent, err = AppendRequest(sent, Request{Connect, Address{Host: "www.payments.example.com", Port: 443}})
	if err != nil {
		b.Fatal(err)
	}
	var (
		talk   = string(sent)
		client = strings.NewReader(talk)
		r      = bufio.NewReaderSize(client, 4096)
		bound  = netip.MustParseAddrPort("192.0.2.1:40000")
		out    [64]byte
	)
	b.ReportAllocs()
	for b.Loop() {
		client.Reset(talk)
		r.Reset(client)
		if g, err := ReadGreeting(r); err != nil || !g.Offers(UserPass) {
			b.Fatal(err)
		}
		AppendMethod(out[:0], UserPass)
		if _, err := ReadCredentials(r); err != nil {
			b.Fatal(err)
		}
		AppendStatus(out[:0], 0)
		if _, err := ReadRequest(r); err != nil {
			b.Fatal(err)
		}
		AppendReply(out[:0], Succeeded, bound)
	}
}
