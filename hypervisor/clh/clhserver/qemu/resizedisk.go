package qemu

import (
	"context"
	"errors"
	"fmt"
)

// ResizeDisk gives a disk's image the size. QEMU tells the guest.
func (b *Backend) ResizeDisk(ctx context.Context, id string, size uint64) error {
	vm, err := b.running()
	if err == nil {
		err = vm.resizeDisk(ctx, id, size)
	}
	if err != nil {
		return fmt.Errorf("resize disk %s: %w", id, err)
	}
	return nil
}

func (m *machine) resizeDisk(ctx context.Context, id string, size uint64) error {
	p, ok := m.names.byID(id)
	if !ok || p.kind != "disk" {
		return errors.New("no such disk")
	}
	return m.run(ctx, "block_resize", map[string]any{"node-name": p.name, "size": size}, nil)
}
