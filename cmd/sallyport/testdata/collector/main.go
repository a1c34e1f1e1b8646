// Command collector is the OpenTelemetry Collector's own OTLP receiver, for
// tests: it listens for gRPC and HTTP on the two addresses that it is given and
// prints what it is sent, an OTLP/JSON message a line. It ends with its standard
// input.
//
// It is a module of its own, since the collector's dependencies and OPA's
// exclude each other.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(grpc, http string) error {
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	protocol := func(address string) map[string]any {
		return map[string]any{"endpoint": address, "include_metadata": true}
	}
	settings := confmap.NewFromStringMap(map[string]any{
		"protocols": map[string]any{"grpc": protocol(grpc), "http": protocol(http)},
	})
	if err := settings.Unmarshal(config); err != nil {
		return err
	}

	ctx := context.Background()
	set := receiver.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	traces, err := consumer.NewTraces(func(ctx context.Context, t ptrace.Traces) error {
		return show(ctx)((&ptrace.JSONMarshaler{}).MarshalTraces(t))
	})
	if err != nil {
		return err
	}
	metrics, err := consumer.NewMetrics(func(ctx context.Context, m pmetric.Metrics) error {
		return show(ctx)((&pmetric.JSONMarshaler{}).MarshalMetrics(m))
	})
	if err != nil {
		return err
	}
	logs, err := consumer.NewLogs(func(ctx context.Context, l plog.Logs) error {
		return show(ctx)((&plog.JSONMarshaler{}).MarshalLogs(l))
	})
	if err != nil {
		return err
	}

	// The three share one server.
	server, err := factory.CreateTraces(ctx, set, config, traces)
	if err != nil {
		return err
	}
	if _, err := factory.CreateMetrics(ctx, set, config, metrics); err != nil {
		return err
	}
	if _, err := factory.CreateLogs(ctx, set, config, logs); err != nil {
		return err
	}
	if err := server.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	fmt.Println(`{"ready": true}`)
	io.Copy(io.Discard, os.Stdin)
	return server.Shutdown(ctx)
}

var printing sync.Mutex

// show prints a message, and the credentials that came with it.
func show(ctx context.Context) func([]byte, error) error {
	authorization := client.FromContext(ctx).Metadata.Get("authorization")
	return func(message []byte, err error) error {
		if err != nil {
			return err
		}
		var line bytes.Buffer
		if err := json.Compact(&line, message); err != nil {
			return err
		}
		text, err := json.Marshal(map[string]any{"authorization": authorization, "message": json.RawMessage(line.Bytes())})
		if err != nil {
			return err
		}
		printing.Lock()
		defer printing.Unlock()
		_, err = fmt.Println(string(text))
		return err
	}
}
