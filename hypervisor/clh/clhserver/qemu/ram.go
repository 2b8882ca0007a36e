package qemu

import (
	"context"
	"fmt"
	"strings"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// memory is a stretch of the guest's memory. It is shared because the vsock
// device, another process, reads and writes the guest's queues in it.
type memory struct {
	Type  string `json:"qom-type"`
	ID    string `json:"id"`
	Size  uint64 `json:"size"`
	Share bool   `json:"share"`
	Huge  bool   `json:"hugetlb,omitempty"`
}

func sharedMemory(id string, size uint64, huge bool) memory {
	return memory{Type: "memory-backend-memfd", ID: id, Size: size, Share: true, Huge: huge}
}

// dimm is the device argument of memory that is plugged.
type dimm struct {
	Driver string `json:"driver"`
	ID     string `json:"id"`
	Memory string `json:"memdev"`
}

// addMemory describes the memory that the machine boots with, and the room for
// more if it is to grow.
func (c *command) addMemory(m clhserver.Machine) error {
	if more := m.HotplugMemory / clhserver.MemoryBlock * clhserver.MemoryBlock; more > 0 {
		c.add("-m", fmt.Sprintf("size=%dB,slots=%d,maxmem=%dB", m.Memory, clhserver.MemorySlots, m.Memory+more))
	}
	return c.addJSON("-object", sharedMemory("ram", m.Memory, m.Hugepages))
}

// guestCommandLine is that of the machine. QEMU tells the guest of a machine that
// is to grow that memory may come above 4 GiB, for which Linux sets 64 MiB aside to
// copy through for devices that do not reach there. Virtio devices do.
func guestCommandLine(m clhserver.Machine) string {
	if m.HotplugMemory == 0 || strings.Contains(m.Cmdline, "swiotlb=") {
		return m.Cmdline
	}
	return strings.TrimSpace(m.Cmdline + " swiotlb=noforce")
}

// AddMemory plugs so many bytes of memory. They are offline until the guest brings
// them into use.
func (b *Backend) AddMemory(ctx context.Context, bytes uint64) error {
	vm, err := b.running()
	if err != nil {
		return err
	}
	return vm.addMemory(ctx, bytes)
}

func (m *machine) addMemory(ctx context.Context, bytes uint64) error {
	m.dimms++
	name := m.names.add(fmt.Sprintf("__memory%d", m.dimms), "memory")
	host := sharedMemory(name, bytes, m.hugepages)
	return m.plug(ctx, name, "object-add", host, dimm{Driver: "pc-dimm", ID: name, Memory: name})
}
