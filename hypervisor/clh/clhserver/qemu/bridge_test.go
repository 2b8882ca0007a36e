package qemu

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor"
)

func TestBridgesOfSegments(t *testing.T) {
	b := &Backend{}
	for segments, want := range map[int][]uint8{0: {1}, 1: {1}, 3: {1, 30, 31}, 10: {1, 23, 24, 25, 26, 27, 28, 29, 30, 31}} {
		if got := b.ReservedSlots(segments); !slices.Equal(got, want) {
			t.Errorf("%d segments reserve %v, want %v", segments, got, want)
		}
	}
	for at, want := range map[hypervisor.BDF]hypervisor.BDF{
		{Device: 4}:             {Device: 4},
		{Segment: 3, Device: 4}: {Bus: 3, Device: 4},
	} {
		if got := b.Address(at); got != want {
			t.Errorf("%s is found at %s, want %s", at, got, want)
		}
	}
}

// TestInterruptRouting decodes the table and compares it with what the bridges
// and the root bus do: a bridge turns pin A of device n into pin n mod 4, the
// root bus gives pin p of device d to link (p+d-1) mod 4.
func TestInterruptRouting(t *testing.T) {
	for _, segments := range []int{2, 10, 13} {
		table := aml{t, routingTable(segments)}
		for s := 1; s < segments; s++ {
			bridge := 32 - segments + s
			scope := table.block(amlScope)
			scope.skip(append([]byte{amlRoot, amlManyName, 3}, fmt.Sprintf("_SB_PCI0S%02X_", bridge*8)...))
			scope.skip([]byte("\x08_PRT"))
			list := scope.block(amlPackage)
			list.skip([]byte{32})
			for slot := range 32 {
				entry := list.block(amlPackage)
				entry.skip([]byte{4, amlDWord})
				if got := binary.LittleEndian.Uint32(entry.rest); got != uint32(slot)<<16|0xffff {
					t.Fatalf("entry %d of segment %d is for address %#x", slot, s, got)
				}
				entry.rest = entry.rest[4:]
				link := "ABCD"[(slot%4+bridge-1)%4]
				entry.skip(fmt.Appendf([]byte{0, amlRoot, amlDualName}, "_SB_LNK%c", link))
				entry.skip([]byte{amlZero})
				entry.end()
			}
			list.end()
			scope.end()
		}
		table.end()
	}
}

// aml reads ACPI Machine Language.
type aml struct {
	t    *testing.T
	rest []byte
}

func (a *aml) skip(want []byte) {
	a.t.Helper()
	if len(a.rest) < len(want) || string(a.rest[:len(want)]) != string(want) {
		a.t.Fatalf("found %q, want %q", a.rest[:min(len(a.rest), len(want))], want)
	}
	a.rest = a.rest[len(want):]
}

func (a *aml) end() {
	a.t.Helper()
	if len(a.rest) > 0 {
		a.t.Fatalf("%d bytes too many: %q", len(a.rest), a.rest)
	}
}

// block takes an operator and gives its content.
func (a *aml) block(op byte) *aml {
	a.t.Helper()
	a.skip([]byte{op})
	more := int(a.rest[0] >> 6)
	n := int(a.rest[0] & 0x3f)
	if more > 0 {
		n = int(a.rest[0] & 0xf)
	}
	for i := range more {
		n |= int(a.rest[1+i]) << (4 + 8*i)
	}
	if n > len(a.rest) || n < 1+more {
		a.t.Fatalf("a length of %d where %d bytes follow", n, len(a.rest))
	}
	content := &aml{a.t, a.rest[1+more : n]}
	a.rest = a.rest[n:]
	return content
}
