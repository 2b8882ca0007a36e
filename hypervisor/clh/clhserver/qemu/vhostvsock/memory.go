package vhostvsock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// memory is the guest's memory as far as it is mapped here.
type memory []region

// region is a stretch of guest memory.
type region struct {
	guest uint64 // its physical address in the guest
	user  uint64 // its address in QEMU, by which QEMU names the rings
	data  []byte
	whole []byte // what was mapped
}

// parseMemTable maps what SET_MEM_TABLE describes.
func parseMemTable(payload []byte, files []*os.File) (mem memory, err error) {
	defer func() {
		if err != nil {
			mem.unmap()
			mem = nil
		}
	}()
	f := fields{rest: payload}
	n := f.u32()
	f.u32() // padding
	if int(n) != len(files) {
		return nil, fmt.Errorf("vhost-user: %d memory regions with %d descriptors", n, len(files))
	}
	for _, file := range files {
		r := region{guest: f.u64()}
		size := f.u64()
		r.user = f.u64()
		offset := f.u64()
		if f.bad {
			return mem, errors.New("vhost-user: memory table is cut short")
		}
		var st unix.Stat_t
		if err = unix.Fstat(int(file.Fd()), &st); err != nil {
			return mem, fmt.Errorf("vhost-user: memory region: %w", err)
		}
		end := offset + size
		if size == 0 || end < offset || end > uint64(st.Size) || r.guest+size < r.guest || r.user+size < r.user {
			return mem, fmt.Errorf("vhost-user: memory region of %d bytes at %d in a file of %d", size, offset, st.Size)
		}
		r.whole, err = unix.Mmap(int(file.Fd()), 0, int(end), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return mem, fmt.Errorf("vhost-user: map memory region: %w", err)
		}
		r.data = r.whole[offset:end:end]
		mem = append(mem, r)
	}
	return mem, nil
}

func (m memory) unmap() {
	for _, r := range m {
		unix.Munmap(r.whole)
	}
}

// at gives the n bytes of the guest at a physical address.
func (m memory) at(address, n uint64) ([]byte, error) {
	for _, r := range m {
		if b, ok := within(r.data, address-r.guest, n, address >= r.guest); ok {
			return b, nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %#x are not in the guest's memory", n, address)
}

// atUser gives the n bytes at an address of QEMU's.
func (m memory) atUser(address, n uint64) ([]byte, error) {
	for _, r := range m {
		if b, ok := within(r.data, address-r.user, n, address >= r.user); ok {
			return b, nil
		}
	}
	return nil, fmt.Errorf("%d bytes at QEMU's %#x are not in the guest's memory", n, address)
}

func within(data []byte, offset, n uint64, above bool) ([]byte, bool) {
	size := uint64(len(data))
	if !above || offset > size || n > size-offset {
		return nil, false
	}
	return data[offset : offset+n : offset+n], true
}
