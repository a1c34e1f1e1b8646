package telemetry

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
)

// signal is one of the three kinds of telemetry, by its name in the standard
// variables.
type signal string

const (
	traces  signal = "TRACES"
	metrics signal = "METRICS"
	logs    signal = "LOGS"
)

// exporterVariable says where the signal goes: otlp, console or none.
func (s signal) exporterVariable() string { return "OTEL_" + string(s) + "_EXPORTER" }

// wanted tells whether the environment asks for the signal: it names an
// exporter or an endpoint. The specification would have it sent to localhost
// where nothing is said; here nothing leaves unless somebody says so.
//
// The exporter "prometheus" is none here, since the management address has it.
func (s signal) wanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch os.Getenv(s.exporterVariable()) {
	case "none":
		return false
	case "prometheus":
		return s != metrics
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" ||
			os.Getenv("OTEL_EXPORTER_OTLP_"+string(s)+"_ENDPOINT") != ""
	}
	return true
}

// failed says which variables an exporter could not be made of. It names no
// value: headers hold secrets.
func (s signal) failed(err error) error {
	return fmt.Errorf("telemetry: %s=%q, OTEL_EXPORTER_OTLP_…: %s",
		s.exporterVariable(), os.Getenv(s.exporterVariable()), newSecrets(os.Environ()).redact(err.Error()))
}

// queueSize is how many spans or log records wait at most, by the variable.
func queueSize(variable string) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil && n > 0 {
		return n
	}
	return 2048 // the specification's default
}

// Process is what this process is to whoever receives its telemetry, the same in all
// signals.
type Process struct {
	resource *resource.Resource
	version  string
}

// Describe names this process, of that version of the program. By a random UUID,
// service.instance.id, it is told from others of its name: what they push has nothing
// else to be told apart by. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
func Describe(version string) (*Process, error) {
	all, err := resource.New(context.Background(),
		resource.WithTelemetrySDK(),
		resource.WithService(), // the UUID; the name is replaced
		resource.WithAttributes(
			attribute.String("service.name", "sallyport"),
			attribute.String("service.version", version),
		),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("telemetry: resource: %w", err)
	}
	return &Process{all, version}, nil
}
