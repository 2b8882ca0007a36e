package clhserver

import (
	"math"
	"net"
	"os"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"golang.org/x/sys/unix"
)

// build names and places every device of v, in the order of the original:
// ids for disks, NICs, vsock; slots for console, disks, NICs, rng, vsock. Ids
// are written back into the description.
func (s *server) build(v *vm) (Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &v.config
	reserved := s.backend.ReservedSlots(segments(c))
	v.address = s.backend.Address
	v.slots = newSlots(segments(c), s.cfg.Profile.HostBridges, reserved)
	v.devices = map[string]*device{"__ioapic": {}}
	for _, at := range reservedNodes(reserved) {
		v.devices["__slot"+at.String()] = &device{at: &at}
	}
	m := Machine{
		Segments: segments(c), VCPUs: c.Cpus.BootVcpus, MaxVCPUs: c.Cpus.MaxVcpus,
		Memory: c.Memory.Size, HotplugMemory: value(c.Memory.HotplugSize), Hugepages: value(c.Memory.Hugepages),
		Serial: v.serial, Virtio: v.virtio,
	}
	if value(c.Payload.Igvm) != "" && snp(c) {
		m.IGVM, m.HostData = *c.Payload.Igvm, value(c.Payload.HostData)
	} else {
		m.Kernel, m.Initramfs, m.Cmdline = value(c.Payload.Kernel), value(c.Payload.Initramfs), value(c.Payload.Cmdline)
	}
	v.nameAll()
	if m.Serial.Out != nil {
		v.devices["__serial"] = &device{}
	}
	if err := v.placeAll(&m); err != nil {
		closeNets(m.Nets)
		v.devices = map[string]*device{}
		return Machine{}, err
	}
	return m, nil
}

// nameAll gives an id to every device of the description that has none.
func (v *vm) nameAll() {
	c := &v.config
	taken := map[string]bool{}
	for _, d := range value(c.Disks) {
		taken[value(d.Id)] = true
	}
	for _, n := range value(c.Net) {
		taken[value(n.Id)] = true
	}
	taken[value(value(c.Vsock).Id)] = true
	for i := range value(c.Disks) {
		(*c.Disks)[i].Id = v.name("disk", (*c.Disks)[i].Id, taken)
	}
	for i := range value(c.Net) {
		(*c.Net)[i].Id = v.name("net", (*c.Net)[i].Id, taken)
	}
	if c.Vsock != nil {
		c.Vsock.Id = v.name("vsock", c.Vsock.Id, taken)
	}
}

func (v *vm) placeAll(m *Machine) error {
	c := &v.config
	if m.Virtio.Out != nil {
		at, err := v.place("__console", 0)
		if err != nil {
			return err
		}
		m.Virtio.At = at
	}
	for _, d := range value(c.Disks) {
		at, err := v.place(*d.Id, value(d.PciSegment))
		if err != nil {
			return err
		}
		m.Disks = append(m.Disks, diskOf(&d, at))
	}
	for i, n := range value(c.Net) {
		taps := v.taps[tapKey(i)]
		if len(taps) == 0 {
			return fail(other, "Error from device manager: network card %s has no tap: opening one by name is not supported by this machine", *n.Id)
		}
		at, err := v.place(*n.Id, value(n.PciSegment))
		if err != nil {
			return err
		}
		nic, err := netOf(&n, taps, at)
		if err != nil {
			return err
		}
		m.Nets = append(m.Nets, nic)
	}
	at, err := v.place("__rng", 0)
	if err != nil {
		return err
	}
	m.RNG = &RNG{c.Rng.Src, at}
	if c.Vsock != nil {
		at, err := v.place(*c.Vsock.Id, value(c.Vsock.PciSegment))
		if err != nil {
			return err
		}
		m.Vsock = &Vsock{*c.Vsock.Id, uint32(c.Vsock.Cid), c.Vsock.Socket, at}
	}
	return nil
}

// name gives the device its id: the client's, or the next of the one counter
// that all kinds share, past those in use and taken.
func (v *vm) name(kind string, id *string, taken map[string]bool) *string {
	if id != nil {
		return id
	}
	for {
		next := "_" + kind + itoa(v.named)
		v.named++
		if _, used := v.devices[next]; !used && !taken[next] {
			return &next
		}
	}
}

// place enters the device in the tree and gives it the lowest free slot. As in
// the original the node stays where there is no slot.
func (v *vm) place(id string, segment int16) (hypervisor.BDF, error) {
	if _, ok := v.devices[id]; ok {
		return hypervisor.BDF{}, fail(other, "Error from device manager: DeviceIdAlreadyInUse(%q)", id)
	}
	d := &device{}
	v.devices[id] = d
	at, ok := v.slots.take(segment)
	if !ok {
		return at, fail(other, "Error from device manager: AllocatePciDeviceId(NoAvailableSlots) on segment %d", segment)
	}
	d.at = &at
	return at, nil
}

// unplace takes the device out again, where the machine refused it.
func (v *vm) unplace(id string) {
	if d := v.devices[id]; d != nil && d.at != nil {
		v.slots.free(*d.at)
	}
	delete(v.devices, id)
}

func diskOf(d *api.DiskConfig, at hypervisor.BDF) Disk {
	return Disk{ID: *d.Id, Path: value(d.Path), ReadOnly: value(d.Readonly), Serial: value(d.Serial), Limits: limitsOf(d.RateLimiterConfig), At: at}
}

func limitsOf(c *api.RateLimiterConfig) (l Limits) {
	bucket := func(b *api.TokenBucket) Bucket {
		if b == nil {
			return Bucket{}
		}
		return Bucket{
			Size: uint64(b.Size), Once: uint64(value(b.OneTimeBurst)),
			Refill: time.Duration(min(b.RefillTime, int64(math.MaxInt64/time.Millisecond))) * time.Millisecond,
		}
	}
	if c == nil {
		return l
	}
	return Limits{Bandwidth: bucket(c.Bandwidth), Ops: bucket(c.Ops)}
}

// netOf gives the backend descriptors of its own: ours are kept for a reboot.
func netOf(n *api.NetConfig, taps []*os.File, at hypervisor.BDF) (Net, error) {
	nic := Net{ID: *n.Id, Limits: limitsOf(n.RateLimiterConfig), At: at}
	if n.Mac != nil {
		mac, err := net.ParseMAC(*n.Mac)
		if err != nil {
			return Net{}, fail(invalid, "Failed to validate config: invalid MAC %q", *n.Mac)
		}
		nic.MAC = mac
	}
	for _, t := range taps {
		fd, err := unix.FcntlInt(t.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeAll(nic.Taps)
			return Net{}, fail(other, "Error from device manager: duplicate a tap: %v", err)
		}
		nic.Taps = append(nic.Taps, os.NewFile(uintptr(fd), t.Name()))
	}
	return nic, nil
}

func closeNets(nics []Net) {
	for _, n := range nics {
		closeAll(n.Taps)
	}
}
