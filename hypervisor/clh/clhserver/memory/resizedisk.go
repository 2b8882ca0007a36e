package memory

import (
	"context"
	"fmt"
)

// ResizeDisk gives the file of a disk the size; there is no guest to tell.
func (b *Backend) ResizeDisk(_ context.Context, id string, size uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.devices[id]) != 1 {
		return fmt.Errorf("no disk %s is open", id)
	}
	f := b.devices[id][0]
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = f.Truncate(int64(size))
	}
	return err
}
