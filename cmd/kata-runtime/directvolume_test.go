package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := command(os.Stdin, &out, &out).Run(t.Context(), append([]string{"kata-runtime", "direct-volume"}, args...))
	return out.String(), err
}

func TestDirectVolume(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	path := filepath.Join(t.TempDir(), "volume")
	dir := mounts.DirectVolumeDir(path)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const info = `{"volume-type":"block","device":"/dev/sdx","fstype":"ext4"}`
	if _, err := run(t, "stats", "--volume-path", path); !errdefs.IsNotFound(err) {
		t.Errorf("stats of nothing: %v", err)
	}
	for _, bad := range []string{"{", "{}", `{"device":"sdx","fstype":"ext4"}`} {
		if _, err := run(t, "add", "--volume-path", path, "--mount-info", bad); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), path) {
			t.Errorf("add of %s: %v", bad, err)
		}
	}
	if _, err := run(t, "add", "--volume-path", path, "--mount-info", info); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "mountInfo.json")); string(data) != info || err != nil {
		t.Errorf("%s, %v", data, err)
	}
	if _, err := run(t, "stats", "--volume-path", path); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("stats of a volume that nobody uses: %v", err)
	}

	vms := t.TempDir()
	if err := os.Mkdir(filepath.Join(vms, "s1"), 0o700); err != nil {
		t.Fatal(err)
	}
	agent := agenttest.Start(t, agenttest.Azl1)
	if err := agent.ListenHybrid(filepath.Join(vms, "s1", consoleSocket)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "s1"), []byte("/run/guest/path"), 0o600); err != nil {
		t.Fatal(err)
	}
	// This agent does not know the call, and says so itself.
	_, err := run(t, "stats", "--volume-path", path, "--vm-dir", vms)
	if err == nil || !strings.Contains(err.Error(), "is not supported") || !strings.Contains(err.Error(), "sandbox s1") {
		t.Errorf("stats: %v", err)
	}
	resize := func() error {
		_, err := run(t, "resize", "--size", "1024", "--volume-path", path, "--state-dir", vms)
		return err
	}
	if err := resize(); err == nil || !strings.Contains(err.Error(), sandbox.MonitorSocket) {
		t.Errorf("resize without a shim: %v", err)
	}
	listener, err := net.Listen("unix", filepath.Join(vms, "s1", sandbox.MonitorSocket))
	if err != nil {
		t.Fatal(err)
	}
	var got sandbox.ResizeRequest
	status := http.StatusOK
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.URL.Path != sandbox.ResizePath {
				t.Errorf("%s: %v", r.URL, err)
			}
			http.Error(w, "in words", status)
		}))
	}()
	t.Cleanup(func() { listener.Close() })
	if err := resize(); err != nil || got != (sandbox.ResizeRequest{VolumePath: path, Size: 1024}) {
		t.Errorf("resize: %v, asked for %+v", err, got)
	}
	status = http.StatusNotImplemented
	if err := resize(); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "in words") || !strings.Contains(err.Error(), "sandbox s1") {
		t.Errorf("a refused resize: %v", err)
	}
	if _, err := run(t, "remove", "--volume-path", path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("after the removal: %v", err)
	}
}
