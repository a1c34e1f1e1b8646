package main

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// talk_test.go is a client that says what it is told to, and the messages of RFC 1928
// and RFC 1929 for it.

// talk is a client that sends what it is told to, byte for byte.
type talk struct {
	*net.TCPConn
	t *testing.T
}

func dialDoor(t *testing.T, addr string) *talk {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &talk{c.(*net.TCPConn), t}
}

func (c *talk) say(text string) *talk {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	return c
}

func (c *talk) hear(want string) *talk {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if string(got[:n]) != want {
		c.t.Fatalf("heard %q (%v), want %q", got[:n], err, want)
	}
	return c
}

// rest is all that comes until the other side closes, and how it does.
func (c *talk) rest() (string, error) {
	got, err := io.ReadAll(c)
	return string(got), err
}

// Messages of RFC 1928.
const (
	greeting = "\x05\x01\x00"
	chosen   = "\x05\x00"
)

// connectTo is a request for an address in binary form, or else for a name.
func connectTo(host string, port uint16) string {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return connectToName(host, port)
	}
	kind := "\x01"
	if ip.Is6() {
		kind = "\x04"
	}
	return "\x05\x01\x00" + kind + string(ip.AsSlice()) + string(binary.BigEndian.AppendUint16(nil, port))
}

// connectToName is a request for a name, whatever that is.
func connectToName(host string, port uint16) string {
	return "\x05\x01\x00\x03" + string([]byte{byte(len(host))}) + host + string(binary.BigEndian.AppendUint16(nil, port))
}

// replied is a reply without an address.
func replied(code byte) string {
	return "\x05" + string([]byte{code}) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

func login(name, password string) string {
	return "\x01" + string([]byte{byte(len(name))}) + name + string([]byte{byte(len(password))}) + password
}

// exchange sends text and returns all that comes back.
func exchange(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, text)
	out, _ := io.ReadAll(c)
	return string(out)
}

// dialFrom is dialDoor from an address of this machine; empty: the usual one.
func dialFrom(t *testing.T, from, addr string) *talk {
	t.Helper()
	if from == "" {
		return dialDoor(t, addr)
	}
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &talk{c.(*net.TCPConn), t}
}
