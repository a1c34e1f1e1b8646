package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/proxy/secret"
)

// api.go is how a command talks to the running server.

// api is where the server's management API is, and the token that opens it.
type api struct {
	address   string // host:port, unix:PATH, or a URL
	tokenFile string
	read      *string // what tokenFile has; it may be a pipe, and a command may make many calls
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
	_, err := a.send(c, apiCall{method: method, path: path, body: body, into: into})
	return err
}

// apiCall is one call: all but method and path may be missing.
type apiCall struct {
	method, path string
	header       http.Header
	body         any // is sent as JSON
	into         any // takes the answer
}

// send makes one call, reads its answer, and returns its ETag. The error may
// be an apiError.
func (a *api) send(c *cobra.Command, x apiCall) (tag string, err error) {
	token, err := a.token(c)
	if err != nil {
		return "", err
	}
	transport, base := a.way()
	var sent io.Reader
	if x.body != nil {
		text, err := json.Marshal(x.body)
		if err != nil {
			return "", err
		}
		sent = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(c.Context(), x.method, base+x.path, sent)
	if err != nil {
		return "", fmt.Errorf("--management: %q is no address", a.address)
	}
	maps.Copy(request.Header, x.header)
	if x.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: transport, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return "", failure{fmt.Errorf("management API: %w", errors.Unwrap(err))}
	}
	defer response.Body.Close()
	if err := decode(response, x.into); err != nil {
		return "", failure{err}
	}
	return response.Header.Get("ETag"), nil
}

// token is what opens the API; "" where none is given. A file that the server would
// refuse to take it from is told, and used: the token is known to whom it is known
// already, and a script that works goes on to.
func (a *api) token(c *cobra.Command) (string, error) {
	if a.tokenFile == "" {
		return os.Getenv("SALLYPORT_TOKEN"), nil
	}
	if a.read != nil {
		return *a.read, nil
	}
	file, err := os.Open(a.tokenFile)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	// What is no file, such as a pipe, has a mode that says nothing.
	if info.Mode().IsRegular() && secret.Lax(file, info, 0o026) {
		fmt.Fprintf(c.ErrOrStderr(), "sallyport: --token-file: %s is open to others (mode %04o): run chmod 600 %[1]s\n", a.tokenFile, info.Mode().Perm())
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	a.read = &token
	return token, nil
}

// way is how the API is reached, and what comes before each path.
func (a *api) way() (*http.Transport, string) {
	transport := &http.Transport{Proxy: nil}
	switch {
	case strings.HasPrefix(a.address, "unix:"):
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(a.address, "unix:"))
		}
		return transport, "http://localhost"
	case strings.HasPrefix(a.address, "https://"), strings.HasPrefix(a.address, "http://"):
		return transport, strings.TrimSuffix(a.address, "/")
	}
	return transport, "http://" + a.address
}

// apiError is an answer that is none: the status is 300 or more.
type apiError struct {
	status   int
	text     string // may have several lines
	decision string // the policy's; "" where it was not asked or allows
}

func (e *apiError) Error() string {
	text := "management API: " + e.text
	if e.decision != "" {
		text += " (decision " + e.decision + ")"
	}
	return text
}

// decode reads an answer of the API, or the error that it is.
func decode(response *http.Response, into any) error {
	const most = 64 << 20
	body, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return fmt.Errorf("management API: %w", err)
	}
	if response.StatusCode >= 300 {
		var refused struct {
			Error    string `json:"error"`
			Decision string `json:"decision_id"`
		}
		if json.Unmarshal(body, &refused) != nil || refused.Error == "" {
			refused.Error = response.Status
		}
		return &apiError{response.StatusCode, refused.Error, refused.Decision}
	}
	if into == nil {
		return nil
	}
	in := json.NewDecoder(bytes.NewReader(body))
	in.UseNumber()
	if err := in.Decode(into); err != nil {
		return fmt.Errorf("management API: %w", err)
	}
	return nil
}
