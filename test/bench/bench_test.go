package main

import (
	"testing"
	"time"
)

func TestReadPhases(t *testing.T) {
	took := samples{}
	readPhases(`time="2026-01-01T00:00:00Z" level=info msg="sandbox started" agent=2.61s boot=51.5ms duration=3s network="4ms" sandbox=ab12s vmm=73.2ms`+"\n"+
		`time="2026-01-01T00:00:00Z" level=info msg="container created" layers=35ms agent_create=1.5s`+"\n"+
		`time="2026-01-01T00:00:00Z" level=info msg="other" boot=1s`+"\n", took)
	want := map[string]time.Duration{"agent": 2610 * time.Millisecond, "boot": 51500 * time.Microsecond,
		"vmm": 73200 * time.Microsecond, "layers": 35 * time.Millisecond, "agent_create": 1500 * time.Millisecond}
	for name, d := range want {
		if len(took[name]) != 1 || took[name][0] != d {
			t.Errorf("%s: %v, want %v", name, took[name], d)
		}
	}
	if len(took["duration"]) != 0 || len(took["sandbox"]) != 0 {
		t.Error(took)
	}
}

func TestParseBenchmarks(t *testing.T) {
	results := parseBenchmarks("goos: linux\npkg: github.com/kata-cc/kata-cc/verity\n" +
		"BenchmarkHash-2   \t     100\t  2000000 ns/op\t 500.00 MB/s\n" +
		"BenchmarkHash-2   \t     100\t  3000000 ns/op\t 400.00 MB/s\n" +
		"BenchmarkHash-2   \t     100\t  2500000 ns/op\t 450.00 MB/s\nPASS\n")
	if len(results) != 1 || results[0].pkg != "verity" || results[0].name != "Hash" {
		t.Fatalf("%+v", results)
	}
	if got := figure(results[0].values["ns/op"], "ns/op"); got != "2.5 ms" {
		t.Error(got)
	}
	if got := figure(results[0].values["MB/s"], "MB/s"); got != "450 MB/s" {
		t.Error(got)
	}
}
