package telemetry

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPrintsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		tel := &Telemetry{log: slog.New(slog.NewJSONHandler(&log, nil))}
		for second := 1; second <= 3; second++ {
			for range 10 * maxPrints {
				tel.Printed(&Print{Stage: "route", File: "a.rego", Line: 3, Text: strings.Repeat("x", 1<<20)})
			}
			text := log.String()
			if n := strings.Count(text, `"msg":"policy print"`); n != second*maxPrints {
				t.Errorf("%d lines in %d seconds", n, second)
			}
			if n := strings.Count(text, "the rest of this second is dropped"); n != second {
				t.Errorf("it is told %d times in %d seconds that lines are dropped", n, second)
			}
			if len(text) > second*maxPrints*2*maxText {
				t.Errorf("%d bytes", len(text))
			}
			time.Sleep(time.Second)
		}
	})
}

func TestPrinted(t *testing.T) {
	var log bytes.Buffer
	tel := &Telemetry{log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}
	tel.Printed(&Print{Stage: "route", Session: "s1", File: "a.rego", Line: 3, Text: "x\n\"y"})
	tel.Printed(&Print{Stage: "manage", File: "b.rego", Line: 4, Withheld: true})
	want := `{"level":"INFO","msg":"policy print","stage":"route","file":"a.rego","line":3,"session.id":"s1","text":"x\n\"y"}
{"level":"INFO","msg":"policy print","stage":"manage","file":"b.rego","line":4,"withheld":true}
`
	if log.String() != want {
		t.Errorf("%s", log.String())
	}
}
