package main

import (
	"strings"
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

func TestMemoryBesideTheGuests(t *testing.T) {
	smaps := "7f0000000000-7f0020000000 rw-s 00000000 00:01 1 /memfd:memory (deleted)\nSize: 524288 kB\nPss: 102400 kB\n" +
		"7e0000000000-7e0020000000 rw-p 00000000 00:00 0\nPss: 51200 kB\n" + // anonymous, of the guest's size
		"55d000000000-55d000800000 r-xp 00000000 08:01 2 /usr/bin/vmm\nRss: 8192 kB\nPss: 2048 kB\nPss_Anon: 9 kB\n" +
		"55d100000000-55d100100000 rw-p 00000000 00:00 0 [heap]\nPss: 1024 kB\n"
	if got := pssWithout(smaps, 512); got != 3 {
		t.Errorf("%v MiB, want 3", got)
	}
}

func TestPlot(t *testing.T) {
	text := plot(samples{"boot": {time.Second, 2 * time.Second, 3 * time.Second}, "agent": {90 * time.Millisecond}, "runp": {time.Hour}})
	if !strings.Contains(text, "x-axis [boot, agent]\n") || !strings.Contains(text, "bar [2000, 90]\n") {
		t.Error(text)
	}
}
