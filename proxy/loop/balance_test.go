package loop

import (
	"net"
	"testing"
)

// Connections that come one by one, while all loops sleep, are not all of the loop
// that happens to be woken first.
func TestLoopsShareConnections(t *testing.T) {
	g := start(t)
	ln := listen(t, g, "127.0.0.1:0")
	accepted := make(chan *Conn)
	ended := serve(ln, func(c *Conn) { c.Serve(func(task *Task) { task.Aside(func() { accepted <- c }) }) }, never(t))
	count := map[*Loop]int{}
	var all []*Conn
	for range 100 * len(g.loops) {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c := <-accepted
		count[c.Loop()]++
		all = append(all, c)
	}
	for _, l := range g.loops {
		if n := count[l]; n < 100-slack-1 || n > 100+slack+1 {
			t.Errorf("a loop has %d connections, of %d for each", n, 100)
		}
	}
	for _, c := range all {
		c.Close()
	}
	for _, l := range g.loops {
		if n := l.open.Load(); n != 1 { // the listener
			t.Errorf("a loop has %d connections left", n)
		}
	}
	ln.Close()
	await(t, "Serve ends", ended)
}
