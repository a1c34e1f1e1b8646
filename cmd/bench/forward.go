package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/proxy/wire/http"
)

// Plain requests of HTTP, which a proxy forwards one by one: the target answers
// what begins with the first letter of GET, on a connection that it keeps.

const (
	get          = 'G'
	forwardReply = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: 512\r\n\r\n"
)

// answerRequests is the target's side; start is what has come already.
func answerRequests(c net.Conn, start []byte) error {
	r := bufio.NewReader(io.MultiReader(strings.NewReader(string(start)), c))
	reply := []byte(forwardReply + strings.Repeat("x", 512))
	for {
		req, err := nethttp.ReadRequest(r)
		if err != nil {
			return err
		}
		if _, err := c.Write(reply); err != nil || req.Close {
			return err
		}
	}
}

// forward sends requests, one after another on each of many connections, which are
// opened anew where the proxy does not keep them.
func forward(ctx context.Context, c *contender, s settings) (figures, error) {
	if c.through.scheme != "http" {
		return nil, nil
	}
	const clients = 64
	var answered atomic.Int64
	var failure first
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer all.Wait()
	defer cancel()
	for range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := c.requests(ctx, s, &answered); err != nil {
					failure.is(err)
					return
				}
			}
		})
	}
	pause(ctx, 200*time.Millisecond)
	m, before := newMeter(c), answered.Load()
	pause(ctx, s.duration)
	n := float64(answered.Load() - before)
	f := figures{"forward_per_second": n / time.Since(m.begun).Seconds()}
	m.each(f, "forward_cpu_us", n, time.Microsecond)
	if err := failure.get(); err != nil {
		return f, err
	}
	if n == 0 {
		return f, fmt.Errorf("no request was answered")
	}
	return f, nil
}

// requests sends them on one connection, for as long as the proxy keeps it.
func (c *client) requests(ctx context.Context, s settings, answered *atomic.Int64) error {
	n := int(c.turn.Add(1))
	to := c.targets[n%len(c.targets)]
	conn, err := dial(c.through.address, from(n))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(s.duration + patience))
	request := fmt.Sprintf("GET http://%s/%d HTTP/1.1\r\nHost: %[1]s\r\nUser-Agent: bench\r\nAccept: */*\r\n", to, n)
	if c.through.user != "" {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(c.through.user+":"+c.through.password)) + "\r\n"
	}
	request += "\r\n"
	r := bufio.NewReader(conn)
	for turn := 0; ctx.Err() == nil; turn++ {
		_, err := io.WriteString(conn, request)
		var res *http.Response
		if err == nil {
			res, err = http.NewResponses(r).Next()
		}
		if err != nil {
			if turn > 0 { // it was closed without a word of it, as tinyproxy does
				return nil
			}
			return err
		}
		framing, err := res.Body("GET")
		if err != nil {
			return err
		}
		if n, err := io.Copy(io.Discard, http.NewBody(r, framing)); err != nil || n != 512 || res.Status != 200 {
			return fmt.Errorf("the proxy answers: status %d, %d bytes, %v", res.Status, n, err)
		}
		answered.Add(1)
		if !res.Persistent() || framing.Length < 0 && !framing.Chunked {
			return nil
		}
	}
	return nil
}
