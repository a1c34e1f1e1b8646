package http

import (
	"bufio"
	"strings"
	"testing"
)

// BenchmarkConnect reads what curl sends with a user name, and the credentials
// in it, and writes the answer.
func BenchmarkConnect(b *testing.B) {
	sent := head(
		"CONNECT www.payments.example.com:443 HTTP/1.1",
		"Host: www.payments.example.com:443",
		"Proxy-Authorization: Basic YmlsbGluZzpwYXlzLWJpbGxzLW9uLXRpbWU=",
		"User-Agent: curl/8.14.1",
		"Proxy-Connection: Keep-Alive")
	client := strings.NewReader(sent)
	r := bufio.NewReaderSize(client, 4096)
	b.ReportAllocs()
	for b.Loop() {
		client.Reset(sent)
		r.Reset(client)
		request, err := ReadRequest(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, user, _, _, _, err := request.Authorization(); err != nil || user != "billing" {
			b.Fatal(user, err)
		}
		AppendEstablished(nil)
	}
}
