package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// TestGuestOfSixtyLayers: more layers than one bus has slots, each found where
// the VMM says, by its own root hash, and let go of with its container.
func TestGuestOfSixtyLayers(t *testing.T) {
	const n = 60
	base := busyboxLayer(t, strings.Repeat("f", 64))
	layers := make([]layer, 0, n)
	for i := range n - 1 {
		layers = append(layers, makeLayer(t, fmt.Sprintf("%064x", i+1), [2]string{fmt.Sprintf("layer-%d", i), "x"}))
	}
	layers = append(layers, base)
	m := bootVM(t, debugConsole)
	m.createSandbox()

	began := time.Now()
	sources := make([]string, n)
	buses := map[string]bool{}
	for i, l := range layers {
		sources[i] = m.plug(l.path, fmt.Sprintf("layer-%d", i))
		buses[sources[i][:len("0000:00")]] = true
	}
	t.Logf("%d layers plugged in %v", n, time.Since(began))
	if len(buses) < 2 {
		t.Errorf("all layers are on %v", buses)
	}
	if err := m.createOn("many", m.podSpec("many", "/bin/busybox", "sh", "-c", "busybox ls / | busybox grep -c layer-; exec busybox sleep 1000"), layers, sources); err != nil {
		t.Fatal(err)
	}
	t.Logf("container created %v after the first plug", time.Since(began))
	m.start("many")
	m.readUntil("many", "", fmt.Sprintf("%d\n", n-1))
	m.signal("many", "", unix.SIGKILL)
	m.wait("many", "")
	m.remove("many")

	began = time.Now()
	for i := range layers {
		if err := m.vm.UnplugDisk(m.ctx(), fmt.Sprintf("layer-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d layers unplugged in %v", n, time.Since(began))
	if shown := m.shell("dmsetup ls; ls /sys/block"); strings.Contains(shown, "vda") || !strings.Contains(shown, "No devices found") {
		t.Errorf("the guest still has %q", shown)
	}
	if at, err := m.vm.HotplugDisk(m.ctx(), hypervisor.Disk{ID: "again", Path: base.path, ReadOnly: true}); err != nil {
		t.Errorf("a plug into a freed slot: %s, %v", at, err)
	}
}
