package clh

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// devices knows every disk that was ever plugged into a machine, by its id,
// and how much room there is. A disk goes through
//
//	take ──> pending ──placed──> plugged ──> removed
//	            └──────────────────────────────^
//
// and an id is never taken twice, nor a slot while anything says that the VMM
// may still have something in it.
//
// Disks go to segments from 1 on, each to the one with the fewest, so that one
// can be plugged while the guest still looks at the bus of the one before it.
// Segment 0 has what the machine takes from the start, and those disks whose
// guest looks nowhere else.
type devices struct {
	mu       sync.Mutex
	nodes    map[string]*node
	segments []segment
	taken    map[hypervisor.BDF]string // who is where, as far as the VMM has told
}

// node is one disk.
type node struct {
	id      string
	segment uint16 // as asked for
	at      hypervisor.BDF
	placed  bool          // at is known
	asked   bool          // its removal was asked for
	active  chan struct{} // closed when the guest has taken it into use
	gone    chan struct{} // closed when the guest has let go of it
}

// segment is a PCI segment with one bus.
type segment struct {
	slots int   // for disks of ours
	disks int   // that have a slot or may have one
	last  *node // the disk plugged last
}

const slotsPerSegment = 32

func newDevices() *devices {
	return &devices{nodes: map[string]*node{}, taken: map[hypervisor.BDF]string{}}
}

// learn reads from the device tree which slots the machine takes from the start.
func (d *devices) learn(info api.VmInfo, segments int, version version) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if info.DeviceTree == nil {
		return fmt.Errorf("vm.info: a running machine without a device tree: %w", errdefs.ErrFailedPrecondition)
	}
	d.segments = make([]segment, segments)
	for i := range d.segments {
		d.segments[i].slots = slotsPerSegment
		if i == 0 || version.hostBridges() {
			d.segments[i].slots--
			d.taken[hypervisor.BDF{Segment: uint16(i)}] = "the host bridge"
		}
	}
	for id, n := range *info.DeviceTree {
		if n.PciBdf == nil {
			continue
		}
		at, err := hypervisor.ParseBDF(*n.PciBdf)
		if err != nil {
			return fmt.Errorf("vm.info: device %s: %w", id, err)
		}
		if _, known := d.taken[at]; known || int(at.Segment) >= segments {
			continue
		}
		d.taken[at] = id
		if at.Bus == 0 {
			d.segments[at.Segment].slots--
		}
	}
	return nil
}

// choices are the segments that a disk may go to.
func (d *devices) choices(rootBus bool) []segment {
	if rootBus || len(d.segments) == 1 {
		return d.segments[:1]
	}
	return d.segments[1:]
}

// room fails unless there is a slot for each of the disks.
func (d *devices) room(disks []hypervisor.Disk) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rootBus := range []bool{false, true} {
		wanted := 0
		for _, disk := range disks {
			if disk.RootBus == rootBus {
				wanted++
			}
		}
		free, all := 0, 0
		for _, s := range d.choices(rootBus) {
			all += s.slots
			free += s.slots - s.disks
		}
		if wanted > free {
			return fmt.Errorf("%d disks more are needed, and the machine has %d free slots of %d: %w", wanted, free, all, errdefs.ErrResourceExhausted)
		}
	}
	return nil
}

// take reserves an id and a slot, on segment 0 if rootBus.
func (d *devices) take(id string, rootBus bool) (*node, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.nodes[id]; ok {
		return nil, fmt.Errorf("id %s was used before in this machine: %w", id, errdefs.ErrAlreadyExists)
	}
	choices := d.choices(rootBus)
	best := 0
	for i := range choices {
		if choices[i].disks < choices[best].disks && choices[i].disks < choices[i].slots || choices[best].disks >= choices[best].slots {
			best = i
		}
	}
	if choices[best].disks >= choices[best].slots {
		return nil, fmt.Errorf("all slots are taken: %w", errdefs.ErrResourceExhausted)
	}
	choices[best].disks++
	n := newNode(id, uint16(len(d.segments)-len(choices)+best))
	if rootBus {
		n.segment = 0
	}
	d.nodes[id] = n
	return n, nil
}

func newNode(id string, segment uint16) *node {
	return &node{id: id, segment: segment, active: make(chan struct{}), gone: make(chan struct{})}
}

// parentPrefix names, in the device tree, the PCI function that a virtio device
// sits in: it is the one that has a position.
const parentPrefix = "_virtio-pci-"

// adopt makes a device that the machine booted with one that can be unplugged.
func (d *devices) adopt(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at, there := range d.taken {
		if there != parentPrefix+id || int(at.Segment) >= len(d.segments) {
			continue
		}
		n := newNode(id, at.Segment)
		n.at, n.placed = at, true
		close(n.active)
		d.nodes[id] = n
		if at.Bus == 0 { // its slot counts as one of ours from now on
			d.segments[at.Segment].slots++
		}
		d.segments[at.Segment].disks++
		return nil
	}
	return fmt.Errorf("vm.info: the device tree lacks %s: %w", id, errdefs.ErrFailedPrecondition)
}

// before returns the disk plugged last on n's segment, nil if there is none.
func (d *devices) before(n *node) *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.segments[n.segment].last
}

// place enters where the VMM has put the disk. Any position will do that no
// other device has: a VMM may stand for a segment by something else.
func (d *devices) place(n *node, at hypervisor.BDF) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n.isGone() {
		return fmt.Errorf("the device was unplugged while it was plugged: %w", errdefs.ErrAborted)
	}
	if other, ok := d.taken[at]; ok {
		return fmt.Errorf("the VMM put the device at %s, where %s is: %w", at, other, errdefs.ErrFailedPrecondition)
	}
	d.taken[at] = n.id
	d.segments[n.segment].last = n
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
	s.disks--
	if n.placed {
		delete(d.taken, n.at)
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
