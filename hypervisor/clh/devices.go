package clh

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// slotsPerSegment counts a segment's device numbers, the host bridge's included.
const slotsPerSegment = 32

// devices knows every disk that was ever plugged into a machine, by its id,
// and which slots are free. A disk goes through
//
//	take ──> pending ──placed──> plugged ──> removed
//	            └──────────────────────────────^
//
// and an id is never taken twice, nor a slot while anything says that the VMM
// may still have something in it.
type devices struct {
	mu       sync.Mutex
	nodes    map[string]*node
	segments []segment
}

// node is one disk.
type node struct {
	segment uint16
	at      hypervisor.BDF // zero while pending
	placed  bool
	asked   bool          // its removal was asked for
	active  chan struct{} // closed when the guest has taken it into use
	gone    chan struct{} // closed when the guest has let go of it
}

// segment is a PCI segment with one bus.
type segment struct {
	used    uint32 // bit n: device number n is taken
	pending int    // disks on their way whose slot is not known yet
	last    *node  // the disk plugged last
}

func newDevices() *devices { return &devices{nodes: map[string]*node{}} }

// learn reads from the device tree which slots the machine takes from the start.
func (d *devices) learn(info api.VmInfo, segments, version int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.segments = make([]segment, segments)
	for i := range d.segments {
		if i == 0 || version < 54 { // from 54 on only segment 0 has a host bridge
			d.segments[i].used = 1
		}
	}
	if info.DeviceTree == nil {
		return fmt.Errorf("vm.info: a running machine without a device tree: %w", errdefs.ErrFailedPrecondition)
	}
	for id, n := range *info.DeviceTree {
		if n.PciBdf == nil {
			continue
		}
		at, err := hypervisor.ParseBDF(*n.PciBdf)
		if err != nil {
			return fmt.Errorf("vm.info: device %s: %w", id, err)
		}
		if int(at.Segment) < segments {
			d.segments[at.Segment].used |= 1 << at.Device
		}
	}
	return nil
}

// take reserves the id and a slot, on the lowest segment that has one free.
func (d *devices) take(id string) (*node, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.nodes[id]; ok {
		return nil, fmt.Errorf("id %s was used before in this machine: %w", id, errdefs.ErrAlreadyExists)
	}
	for i := range d.segments {
		s := &d.segments[i]
		if bits.OnesCount32(s.used)+s.pending < slotsPerSegment {
			s.pending++
			n := &node{segment: uint16(i), active: make(chan struct{}), gone: make(chan struct{})}
			d.nodes[id] = n
			return n, nil
		}
	}
	return nil, fmt.Errorf("all PCI slots are taken: %w", errdefs.ErrResourceExhausted)
}

// before returns the disk plugged last on n's segment, nil if there is none.
func (d *devices) before(n *node) *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.segments[n.segment].last
}

// place enters where the VMM has put the disk.
func (d *devices) place(n *node, at hypervisor.BDF) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n.isGone() {
		return fmt.Errorf("the disk was unplugged while it was plugged: %w", errdefs.ErrAborted)
	}
	if at.Segment != n.segment || at.Bus != 0 || at.Function != 0 {
		return fmt.Errorf("the VMM put the disk at %s, not on segment %d: %w", at, n.segment, errdefs.ErrFailedPrecondition)
	}
	s := &d.segments[n.segment]
	if s.used&(1<<at.Device) != 0 {
		return fmt.Errorf("the VMM put the disk at %s, where there is another: %w", at, errdefs.ErrFailedPrecondition)
	}
	s.used |= 1 << at.Device
	s.pending--
	s.last = n
	n.at, n.placed = at, true
	return nil
}

// find returns the disk of that id, nil if there never was one or it has gone.
func (d *devices) find(id string) *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[id]
	if n == nil || n.isGone() {
		return nil
	}
	return n
}

// ask notes that the disk's removal was asked for.
func (d *devices) ask(n *node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n.asked = true
}

// asked says whether the disk's removal was asked for.
func (d *devices) asked(n *node) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return n.asked
}

func (n *node) isGone() bool {
	select {
	case <-n.gone:
		return true
	default:
		return false
	}
}

// removed frees the slot of a disk that the guest has let go of. The id stays
// taken.
func (d *devices) removed(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[id]
	if n == nil || n.isGone() {
		return
	}
	s := &d.segments[n.segment]
	if n.placed {
		s.used &^= 1 << n.at.Device
	} else {
		s.pending--
	}
	if s.last == n {
		s.last = nil
	}
	close(n.gone)
}

// activated notes that the guest has taken the disk into use.
func (d *devices) activated(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.nodes[id]; n != nil {
		select {
		case <-n.active:
		default:
			close(n.active)
		}
	}
}
