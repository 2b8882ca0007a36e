package vhostvsock

import (
	"errors"
	"fmt"
	"os"
	"slices"

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

// maxRegions bounds the stretches of the guest's memory. A table that is told
// whole holds eight; QEMU needs two for what a machine starts with, a few more
// while its firmware runs, and one for each time that memory is added.
const maxRegions = 64

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
		r, err := mapRegion(&f, file)
		if err != nil {
			return mem, err
		}
		mem = append(mem, r)
	}
	return mem, nil
}

// mapRegion maps the region of file that f describes next.
func mapRegion(f *fields, file *os.File) (region, error) {
	r, size, offset, err := parseRegion(f)
	if err != nil {
		return r, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(file.Fd()), &st); err != nil {
		return r, fmt.Errorf("vhost-user: memory region: %w", err)
	}
	end := offset + size
	if size == 0 || end < offset || end > uint64(st.Size) || r.guest+size < r.guest || r.user+size < r.user {
		return r, fmt.Errorf("vhost-user: memory region of %d bytes at %d in a file of %d", size, offset, st.Size)
	}
	r.whole, err = unix.Mmap(int(file.Fd()), 0, int(end), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return r, fmt.Errorf("vhost-user: map memory region: %w", err)
	}
	r.data = r.whole[offset:end:end]
	return r, nil
}

func parseRegion(f *fields) (r region, size, offset uint64, err error) {
	r.guest, size, r.user, offset = f.u64(), f.u64(), f.u64(), f.u64()
	if f.bad {
		return r, 0, 0, errors.New("vhost-user: memory region is cut short")
	}
	return r, size, offset, nil
}

// with is the memory and what ADD_MEM_REG describes.
func (m memory) with(payload []byte, files []*os.File) (memory, error) {
	if len(files) != 1 || len(m) >= maxRegions {
		return nil, fmt.Errorf("vhost-user: one more memory region with %d descriptors beside %d of at most %d", len(files), len(m), maxRegions)
	}
	f := fields{rest: payload}
	f.u64() // padding
	r, err := mapRegion(&f, files[0])
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(m), r), nil
}

// without is the memory but for the region that REM_MEM_REG describes, which is
// still mapped.
func (m memory) without(payload []byte) (rest, gone memory, err error) {
	f := fields{rest: payload}
	f.u64() // padding
	r, size, _, err := parseRegion(&f)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(m, func(o region) bool {
		return o.guest == r.guest && o.user == r.user && uint64(len(o.data)) == size
	})
	if i < 0 {
		return nil, nil, fmt.Errorf("vhost-user: no memory region of %d bytes at %#x", size, r.guest)
	}
	return slices.Delete(slices.Clone(m), i, i+1), m[i : i+1], nil
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
