package vhostvsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"
)

// ring is a split virtqueue. Source: Virtual I/O Device (VIRTIO) 1.2, 2.7.
//
// The guest writes to the same memory at the same time, so nothing that is read
// from it is read twice.
type ring struct {
	size              uint16 // a power of two
	desc, avail, used uint64 // addresses in QEMU
	next              uint16 // of the available ring, the next to take
	pushed            uint16 // of the used ring, the next to fill
	kick, call        *os.File
	enabled           bool

	mapped bool
	lost   bool // its memory was taken away while it was mapped
	descs  []byte
	availB []byte
	usedB  []byte
}

const (
	descSize      = 16
	descNext      = 1
	descWrite     = 2
	noInterrupt   = 1
	maxRing       = 1024
	availOverhead = 4
	usedElem      = 8
)

// chain is a descriptor chain that the guest has made available.
type chain struct {
	head     uint16
	readable [][]byte
	writable [][]byte
}

// resolve finds the ring in the guest's memory.
func (r *ring) resolve(mem memory) (err error) {
	if r.size == 0 || r.size > maxRing || r.size&(r.size-1) != 0 {
		return fmt.Errorf("ring of %d descriptors", r.size)
	}
	n := uint64(r.size)
	if r.descs, err = mem.atUser(r.desc, n*descSize); err != nil {
		return fmt.Errorf("descriptor table: %w", err)
	}
	if r.availB, err = mem.atUser(r.avail, availOverhead+2*n); err != nil {
		return fmt.Errorf("available ring: %w", err)
	}
	if r.usedB, err = mem.atUser(r.used, 4+usedElem*n); err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	// Flags and index are read and written as one word.
	if r.avail%4 != 0 || r.used%4 != 0 || uintptr(unsafe.Pointer(&r.availB[0]))%4 != 0 {
		return errors.New("ring is not aligned to 4 bytes")
	}
	// What has been used is what has been taken: nothing stays under way.
	r.pushed = uint16(atomic.LoadUint32(word(r.usedB)) >> 16)
	r.mapped = true
	return nil
}

func word(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(&b[0])) }

// running tells whether the ring may be worked on.
func (r *ring) running() bool { return r.mapped && r.enabled && r.kick != nil }

// available tells whether the guest has made a chain available.
func (r *ring) available() bool {
	return r.running() && uint16(atomic.LoadUint32(word(r.availB))>>16) != r.next
}

// take gives the next available chain.
func (r *ring) take(mem memory) (chain, error) {
	slot := availOverhead + 2*int(r.next&(r.size-1))
	c := chain{head: binary.LittleEndian.Uint16(r.availB[slot:])}
	index := c.head
	for range r.size {
		if index >= r.size {
			return chain{}, fmt.Errorf("descriptor %d of a ring of %d", index, r.size)
		}
		var d [descSize]byte
		copy(d[:], r.descs[int(index)*descSize:])
		flags := binary.LittleEndian.Uint16(d[12:])
		if flags&^(descNext|descWrite) != 0 {
			return chain{}, fmt.Errorf("descriptor with flags %#x", flags)
		}
		buffer, err := mem.at(binary.LittleEndian.Uint64(d[:]), uint64(binary.LittleEndian.Uint32(d[8:])))
		if err != nil {
			return chain{}, fmt.Errorf("descriptor: %w", err)
		}
		switch {
		case flags&descWrite != 0:
			c.writable = append(c.writable, buffer)
		case len(c.writable) > 0:
			return chain{}, errors.New("a descriptor to read behind one to write")
		default:
			c.readable = append(c.readable, buffer)
		}
		if flags&descNext == 0 {
			r.next++
			return c, nil
		}
		index = binary.LittleEndian.Uint16(d[14:])
	}
	return chain{}, errors.New("descriptor chain without an end")
}

// push gives a chain back, with n bytes written to it.
func (r *ring) push(c chain, n uint32) {
	slot := 4 + usedElem*int(r.pushed&(r.size-1))
	binary.LittleEndian.PutUint32(r.usedB[slot:], uint32(c.head))
	binary.LittleEndian.PutUint32(r.usedB[slot+4:], n)
	r.pushed++
	atomic.StoreUint32(word(r.usedB), uint32(r.pushed)<<16)
}

// notify tells the guest that chains were pushed, unless it does not want to
// know.
func (r *ring) notify() {
	if r.call == nil || uint16(atomic.LoadUint32(word(r.availB)))&noInterrupt != 0 {
		return
	}
	one := [8]byte{1}
	_, _ = r.call.Write(one[:]) // cannot fail before 2^64 notifications
}

// gather copies from buffers to b and gives the number of bytes.
func gather(b []byte, buffers [][]byte) (n int) {
	for _, from := range buffers {
		n += copy(b[n:], from)
	}
	return n
}

// scatter copies b to buffers and gives the number of bytes.
func scatter(buffers [][]byte, b []byte) (n int) {
	for _, to := range buffers {
		n += copy(to, b[n:])
	}
	return n
}

func length(buffers [][]byte) (n int) {
	for _, b := range buffers {
		n += len(b)
	}
	return n
}
