package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// TestMetrics: a layer is converted and committed, another cannot be; Prometheus
// hears of both, over a unix socket for root only.
func TestMetrics(t *testing.T) {
	_, containerd, layer := startStore(t)
	socket := filepath.Join(t.TempDir(), "metrics")
	d := startDaemon(t, daemonOptions{containerd: containerd, args: []string{"--metrics-address", socket}})
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, error %v", st, err)
	}
	got := scrape(t, socket)
	want(t, got, "tardev_snapshotter_layers 0", "tardev_snapshotter_conversion_seconds_count 0")
	if err := d.apply(1, layer); err != nil {
		t.Fatal(err)
	}
	if err := d.commit(1, layer); err != nil {
		t.Fatal(err)
	}
	lost := ocispec.Descriptor{MediaType: layer.MediaType, Digest: digest.FromString("lost")}
	if err := d.apply(3, lost); err == nil {
		t.Error("a blob that is not there was applied")
	}
	st, err := os.Stat(filepath.Join(d.root, "layers", d.files("layers")[0]))
	if err != nil {
		t.Fatal(err)
	}
	got = scrape(t, socket)
	want(t, got,
		"tardev_snapshotter_layers 1",
		fmt.Sprintf("tardev_snapshotter_layer_bytes %d", st.Size()),
		fmt.Sprintf("tardev_snapshotter_converted_bytes_total %d", st.Size()),
		"tardev_snapshotter_conversion_seconds_count 1",
		"tardev_snapshotter_conversion_failures_total 1",
		`tardev_snapshotter_snapshots{kind="committed"} 1`,
		`tardev_snapshotter_snapshots{kind="active"} 1`,
		`tardev_snapshotter_snapshots{kind="view"} 0`,
	)
	if !regexp.MustCompile(`(?m)^process_resident_memory_bytes [1-9]`).MatchString(got) {
		t.Error("no memory of the process")
	}
	d.signal(unix.SIGTERM)
	if err := d.wait(); err != nil {
		t.Errorf("daemon ended with %v", err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket of metrics is left")
	}
}

func scrape(t *testing.T, socket string) string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}, DisableKeepAlives: true}}
	r, err := c.Get("http://snapshotter/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s, error %v: %s", r.Status, err, text)
	}
	return string(text)
}

func want(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
}

// TestLog: lines are JSON if it is asked for, and what a request causes bears its
// name.
func TestLog(t *testing.T) {
	_, containerd, layer := startStore(t)
	d := startDaemon(t, daemonOptions{containerd: containerd, args: []string{"--log-format=json", "--log-level=debug"}})
	if err := d.apply(1, layer); err != nil {
		t.Fatal(err)
	}
	d.signal(unix.SIGTERM)
	if err := d.wait(); err != nil {
		t.Errorf("daemon ended with %v", err)
	}
	seen := map[string]bool{}
	for lines := bufio.NewScanner(&d.log); lines.Scan(); {
		var line struct{ Msg, RPC, Snapshot, Blob string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Errorf("%v in %s", err, lines.Text())
		}
		seen[line.RPC+" "+line.Msg] = true
		if line.RPC == "Prepare" && line.Snapshot != d.key(1, layer) || line.Msg == "layer converted" && line.Blob != layer.Digest.String() {
			t.Errorf("%s", lines.Text())
		}
	}
	for _, line := range []string{" serving", "Prepare done", "Apply layer converted", "Apply done", " stopping"} {
		if !seen[line] {
			t.Errorf("%q was not logged: %v", line, seen)
		}
	}
}
