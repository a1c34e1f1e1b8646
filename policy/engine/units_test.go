package engine

import (
	"testing"
	"time"
)

func TestParseUnits(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "512B": 512, "10MiB": 10 << 20, "10MB": 10e6, "1kB": 1000, "1KB": 1000, "1KiB": 1024,
		"1.5GiB": 3 << 29, "2GB": 2e9, "1TiB": 1 << 40, "1TB": 1e12, "0.1": 1, "1.1KiB": 1127, ".5KiB": 512,
		"9007199254740993": -2, // beyond what a float holds: rounded, but accepted
	} {
		got, err := parseSize(text)
		if err != nil || want != -2 && got != want {
			t.Errorf("size %q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "B", "MiB", "-1", "+1", "1e3", "0x10", "inf", "NaN", "1 MiB", " 1", "1MiB ", "1mib", "1Mb", "1M", "1.2.3", ".", "1_000",
		"10MiB/s", "9223372036854775808", "8388608TiB", "99999999999999999999999999999999999999",
	} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("size %q: %d", text, got)
		}
	}
	for text, want := range map[string]int64{"10MiB/s": 10 << 20, "100/s": 100, "1kB/s": 1000} {
		if got, err := parseSpeed(text); err != nil || got != want {
			t.Errorf("speed %q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"10MiB", "/s", "10MiB/m", "10/s/s", "-1/s"} {
		if got, err := parseSpeed(text); err == nil {
			t.Errorf("speed %q: %d", text, got)
		}
	}
	for text, want := range map[string]time.Duration{"1m30s": 90 * time.Second, "0s": 0, "0": 0, "1.5h": 90 * time.Minute, "1ns": 1} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("duration %q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "-1s", "1 s", "1d", "5 minutes", "9999999h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("duration %q: %v", text, got)
		}
	}
}

func FuzzParseUnits(f *testing.F) {
	for _, seed := range []string{"1m30s", "10MiB", "1.5GB/s", "-1", "1e999", ".", "9223372036854775807"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseSize(text); err == nil {
			if n < 0 {
				t.Errorf("size %q is %d", text, n)
			}
			if speed, err := parseSpeed(text + "/s"); err != nil || speed != n {
				t.Errorf("%q as a speed: %d, %v", text, speed, err)
			}
		}
		if n, err := parseSpeed(text); err == nil && n < 0 {
			t.Errorf("speed %q is %d", text, n)
		}
		if d, err := parseDuration(text); err == nil && d < 0 {
			t.Errorf("duration %q is %v", text, d)
		}
	})
}
