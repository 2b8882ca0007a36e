package clhserver

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

func itoa(n int) string { return strconv.Itoa(n) }

// with copies a list and appends to the copy: the description is replaced as a
// whole or not at all.
func with[T any](list *[]T, more ...T) *[]T {
	if list == nil && len(more) == 0 {
		return nil
	}
	return ptr(append(slices.Clone(value(list)), more...))
}

func (s *server) addDisk(ctx context.Context, req *request) (any, error) {
	var d api.DiskConfig
	if err := decode(req.body, &d); err != nil {
		return nil, err
	}
	fillDisk(&d)
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	next := v.config
	next.Disks = with(next.Disks, d)
	if err = s.validate(&next); err != nil {
		return nil, err
	}
	if v.state == api.VmInfoStateCreated {
		s.setConfig(v, next)
		return nil, nil
	}
	last := &(*next.Disks)[len(*next.Disks)-1]
	at, err := s.reserve(v, "disk", &last.Id, value(d.PciSegment))
	if err != nil {
		return nil, err
	}
	if err := s.backend.AddDisk(ctx, diskOf(last, at)); err != nil {
		s.unreserve(v, *last.Id)
		return nil, fail(other, "Error from device manager: %v", err)
	}
	s.setConfig(v, next)
	return api.PciDeviceInfo{Id: *last.Id, Bdf: v.address(at).String()}, nil
}

func (s *server) addNet(ctx context.Context, req *request) (any, error) {
	var n api.NetConfig
	if err := decode(req.body, &n); err != nil {
		return nil, err
	}
	fillNet(&n)
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	if len(req.files) > 0 && len(req.files) != *n.NumQueues/2 {
		return nil, fail(invalid, "Failed to validate config: number of queues to virtio_net does not match the number of input FDs: %d queues, %d FDs", *n.NumQueues, len(req.files))
	}
	if len(req.files) == 0 {
		return nil, fail(invalid, "Failed to validate config: a network card without taps: opening one by name is not supported by this machine")
	}
	next := v.config
	next.Net = with(next.Net, n)
	if err = s.validate(&next); err != nil {
		return nil, err
	}
	index := len(*next.Net) - 1
	if v.state == api.VmInfoStateCreated {
		s.keepTaps(v, next, tapKey(index), req)
		return nil, nil
	}
	last := &(*next.Net)[index]
	at, err := s.reserve(v, "net", &last.Id, value(n.PciSegment))
	if err != nil {
		return nil, err
	}
	nic, err := netOf(last, req.files, at)
	if err != nil {
		s.unreserve(v, *last.Id)
		return nil, err
	}
	if err := s.backend.AddNet(ctx, nic); err != nil {
		s.unreserve(v, *last.Id)
		return nil, fail(other, "Error from device manager: %v", err)
	}
	s.keepTaps(v, next, tapKey(index), req)
	return api.PciDeviceInfo{Id: *last.Id, Bdf: v.address(at).String()}, nil
}

// keepTaps makes next the description and takes the descriptors out of req.
func (s *server) keepTaps(v *vm, next api.VmConfig, key string, req *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.config = next
	v.taps[key] = req.files
	req.files = nil
}

func (s *server) setConfig(v *vm, c api.VmConfig) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.config = c
}

func (s *server) reserve(v *vm, kind string, id **string, segment int16) (hypervisor.BDF, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*id = v.name(kind, *id, nil)
	return v.place(**id, segment)
}

func (s *server) unreserve(v *vm, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.unplace(id)
}

// removeDevice answers when the guest has been asked. The device is in the
// tree, its slot and its id taken, until the guest lets go of it.
func (s *server) removeDevice(ctx context.Context, req *request) (any, error) {
	var r api.VmRemoveDevice
	if err := decode(req.body, &r); err != nil {
		return nil, err
	}
	if r.Id == nil {
		return nil, fail(badRequest, "missing field `id`")
	}
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	id := strings.TrimPrefix(*r.Id, parentPrefix)
	unknown := fail(unknownDevice, "Error from device manager: UnknownDeviceId(%q)", id)
	if v.state == api.VmInfoStateCreated {
		if !s.forget(v, id) {
			return nil, unknown
		}
		return nil, nil
	}
	s.mu.Lock()
	d := v.devices[id]
	switch {
	case d == nil || d.removing && s.cfg.Profile.RemoveOnce:
		err = unknown
	case strings.HasPrefix(id, "__"):
		err = fail(other, "Error from device manager: RemovalNotAllowed(%q)", id)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := s.backend.RemoveDevice(ctx, id); err != nil {
		return nil, fail(other, "Error from device manager: %v", err)
	}
	s.mu.Lock()
	d.removing = true
	s.mu.Unlock()
	s.forget(v, id)
	return nil, nil
}

// forget takes the device out of the description.
func (s *server) forget(v *vm, id string) (found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := v.config
	next.Disks, next.Net = with(next.Disks), with(next.Net)
	if i := slices.IndexFunc(value(next.Disks), func(d api.DiskConfig) bool { return value(d.Id) == id }); i >= 0 {
		found = true
		*next.Disks = slices.Delete(*next.Disks, i, i+1)
	}
	if i := slices.IndexFunc(value(next.Net), func(n api.NetConfig) bool { return value(n.Id) == id }); i >= 0 {
		found = true
		*next.Net = slices.Delete(*next.Net, i, i+1)
		closeAll(v.taps[tapKey(i)])
		v.shiftTaps(i, len(*next.Net))
	}
	if value(next.Vsock).Id != nil && *next.Vsock.Id == id {
		found = true
		next.Vsock = nil
	}
	v.config = next
	return found
}

// shiftTaps closes the gap that the removed i-th of n+1 NICs left.
func (v *vm) shiftTaps(i, n int) {
	for ; i < n; i++ {
		v.taps[tapKey(i)] = v.taps[tapKey(i+1)]
	}
	delete(v.taps, tapKey(n))
}
