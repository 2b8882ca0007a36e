package clhtest

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

// testResize gives a disk another size, or checks that a version that cannot says so.
func testResize(t *testing.T, m Machine) {
	h := boot(t, m)
	disk := h.disk("volume")
	disk.ReadOnly = false
	if _, err := h.vm.HotplugDisk(t.Context(), disk); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		info, err := os.Stat(h.layer)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20)
	if errdefs.IsNotImplemented(err) {
		if size() != 8192 {
			t.Errorf("the file has %d bytes after %v", size(), err)
		}
		t.Logf("no resizing: %v", err)
		return
	}
	if err != nil || size() != 1<<20 {
		t.Errorf("the file has %d bytes, want 1 MiB: %v", size(), err)
	}
	if err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20); err != nil {
		t.Errorf("the same size again: %v", err)
	}
	if err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20+1); !errdefs.IsInternal(err) || size() != 1<<20 {
		t.Errorf("a part of a sector: %v, and the file has %d bytes", err, size())
	}
	if err := h.vm.ResizeDisk(t.Context(), "other", 1<<20); !errdefs.IsNotFound(err) {
		t.Errorf("a disk that is not there: %v", err)
	}
	h.unplug("volume")
	if err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20); !errdefs.IsNotFound(err) {
		t.Errorf("a disk that is gone: %v", err)
	}
}
