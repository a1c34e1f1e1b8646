package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/policy"
)

// flow is what eval asks inspect about: what the client's first bytes show.
type flow struct {
	protocol   string
	serverName string
	alpn       []string
	host       string
}

func (f *flow) flags(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.protocol, "flow-protocol", "", "`NAME` of what the first bytes are: tls, http, ssh, unknown or none (default tls with --server-name or --alpn, http with --flow-host)")
	flags.StringVar(&f.serverName, "server-name", "", "`NAME` that a ClientHello asks for")
	flags.StringSliceVar(&f.alpn, "alpn", nil, "`PROTOCOLS` that a ClientHello offers")
	flags.StringVar(&f.host, "flow-host", "", "`NAME` of the Host that the first request has")
}

// set puts the flow into the input.
func (f *flow) set(_ *cobra.Command, _ policy.Stage, input map[string]any) error {
	known := []string{"tls", "http", "ssh", "unknown", "none"}
	protocol := f.protocol
	switch {
	case protocol != "" && !slices.Contains(known, protocol):
		return fmt.Errorf("--flow-protocol: want %s, got %q", strings.Join(known, ", "), protocol)
	case protocol == "" && (f.serverName != "" || len(f.alpn) > 0):
		protocol = "tls"
	case protocol == "" && f.host != "":
		protocol = "http"
	}
	if protocol != "" {
		put(input, protocol, "flow", "protocol")
	}
	if f.serverName != "" {
		put(input, strings.ToLower(f.serverName), "flow", "server_name")
	}
	if len(f.alpn) > 0 {
		offered := []any{}
		for _, name := range f.alpn {
			offered = append(offered, name)
		}
		put(input, offered, "flow", "alpn")
	}
	if f.host != "" {
		put(input, strings.ToLower(f.host), "flow", "host")
	}
	return nil
}
