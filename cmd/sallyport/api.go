package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// api.go is how a command talks to the running server.

// api is where the server's management API is, and the token that opens it.
type api struct {
	address   string // host:port, unix:PATH, or a URL
	tokenFile string
}

// apiFlags are the flags of every command that talks to the server. The token
// itself is never one: it would be seen in the list of processes.
func apiFlags(c *cobra.Command) *api {
	a := &api{}
	f := c.PersistentFlags()
	f.StringVar(&a.address, "management", "127.0.0.1:9080", "`ADDRESS` of the management API: host:port, https://host:port or unix:PATH")
	f.StringVar(&a.tokenFile, "token-file", "", "`FILE` of the token; else it is in SALLYPORT_TOKEN")
	return a
}

// do makes one call and reads its answer into a value.
func (a *api) do(c *cobra.Command, method, path string, body, into any) error {
	token := os.Getenv("SALLYPORT_TOKEN")
	if a.tokenFile != "" {
		text, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	transport := &http.Transport{Proxy: nil}
	base := "http://" + a.address
	switch {
	case strings.HasPrefix(a.address, "unix:"):
		base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(a.address, "unix:"))
		}
	case strings.HasPrefix(a.address, "https://"), strings.HasPrefix(a.address, "http://"):
		base = strings.TrimSuffix(a.address, "/")
	}
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(c.Context(), method, base+path, sent)
	if err != nil {
		return fmt.Errorf("--management: %q is no address", a.address)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return failure{fmt.Errorf("management API: %w", errors.Unwrap(err))}
	}
	defer response.Body.Close()
	if err := decode(response, into); err != nil {
		return failure{err}
	}
	return nil
}
