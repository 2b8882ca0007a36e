package clhserver

import (
	"slices"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// slotsPerSegment is how many devices the one bus of a PCI segment holds.
const slotsPerSegment = 32

// slots says which device numbers of each segment are taken.
type slots []uint32

// newSlots takes slot 0 of segment 0 for the host bridge, and that of every
// other segment where each has one.
func newSlots(segments int, hostBridges bool, reserved []uint8) slots {
	s := make(slots, segments)
	for i := range s {
		if i == 0 || hostBridges {
			s[i] = 1
		}
	}
	for _, n := range reserved {
		s[0] |= 1 << n
	}
	return s
}

// take gives the lowest free slot of a segment.
func (s slots) take(segment int16) (hypervisor.BDF, bool) {
	for n := range uint8(slotsPerSegment) {
		if s[segment]&(1<<n) == 0 {
			s[segment] |= 1 << n
			return hypervisor.BDF{Segment: uint16(segment), Device: n}, true
		}
	}
	return hypervisor.BDF{}, false
}

func (s slots) free(at hypervisor.BDF) {
	if int(at.Segment) < len(s) {
		s[at.Segment] &^= 1 << at.Device
	}
}

// reservedNodes names the slots that the machine keeps for itself, for the
// device tree.
func reservedNodes(reserved []uint8) []hypervisor.BDF {
	var at []hypervisor.BDF
	for _, n := range slices.Compact(slices.Sorted(slices.Values(reserved))) {
		if n != 0 {
			at = append(at, hypervisor.BDF{Device: n})
		}
	}
	return at
}
