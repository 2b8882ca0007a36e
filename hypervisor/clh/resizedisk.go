package clh

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// ResizeDisk gives a plugged disk another size.
func (m *Machine) ResizeDisk(ctx context.Context, id string, size uint64) error {
	if err := m.resizeDisk(ctx, id, size); err != nil {
		return fmt.Errorf("resize disk %s to %d bytes: %w", id, size, err)
	}
	return nil
}

func (m *Machine) resizeDisk(ctx context.Context, id string, size uint64) error {
	if err := m.ready(); err != nil {
		return err
	}
	if !m.version.resizesDisks() {
		return fmt.Errorf("the VMM is version %d, and disks can be resized from 50 on: %w", m.version, errdefs.ErrNotImplemented)
	}
	if m.devices.find(id) == nil {
		return fmt.Errorf("the machine has no such disk: %w", errdefs.ErrNotFound)
	}
	return m.api.resizeDisk(ctx, m.o.APITimeout, id, size)
}

func (c *client) resizeDisk(ctx context.Context, timeout time.Duration, id string, size uint64) error {
	return c.call(ctx, "vm.resize-disk", timeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.api.ResizeDisk(ctx, api.VmResizeDisk{Id: &id, DesiredSize: &size})
	})
}
