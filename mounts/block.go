package mounts

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor"
)

// storageDir is below which the guest mounts block volumes, each at the base64
// of its position.
const storageDir = "/run/kata-containers/sandbox/storage/"

// optionBlockFile says of a mount that its source, a file, is a disk.
const optionBlockFile = "io.katacontainers.fs-opt.block_device=file"

// Device is a block device of the host, or a file that serves as one.
type Device struct {
	Node     string // its path
	Identity string // the same for every path to it
	ReadOnly bool   // the host cannot write to it either
}

// disk is the disk that a device is in the machine, the same for every container.
func (d Device) disk(readOnly bool) hypervisor.Disk {
	sum := sha256.Sum256([]byte(d.Identity))
	name := hex.EncodeToString(sum[:])
	return hypervisor.Disk{ID: "volume-" + name[:32], Path: d.Node, ReadOnly: readOnly || d.ReadOnly, Serial: name[:20]}
}

// mountPoint is where the guest mounts what has a position, or a share's name.
func mountPoint(source string) string {
	return storageDir + base64.URLEncoding.EncodeToString([]byte(source))
}

// DirectMount is the use of a direct-assigned volume.
type DirectMount struct {
	Source      string // on the host; its description is in DirectVolumeDir(Source)
	disk, share string // id of the disk, or name of the share
}

// DiskID is the plan's name of the volume's disk; empty: it is a share.
func (d DirectMount) DiskID() string { return d.disk }

// GuestPath is where the guest has the volume; sources as for Plan.Request.
func (d DirectMount) GuestPath(sources map[string]string) string {
	if d.share != "" {
		return mountPoint(d.share)
	}
	return mountPoint(sources[d.disk])
}

// blockMount is a storage and a mount that wait for the position of a disk.
type blockMount struct {
	disk    hypervisor.Disk
	storage *agentpb.Storage
	mount   int // index of the mount
}

// device makes a block device appear at a mount's destination.
func (v *volumes) device(m *mountView, g *agentpb.Mount) {
	s := &agentpb.Storage{Driver: "blk", Fstype: "bind", Options: slices.Clone(m.Options)}
	v.blocks = append(v.blocks, blockMount{m.src.Device.disk(m.readOnly()), s, len(v.mounts)})
	if slices.Contains(m.Options, optionBlockFile) {
		g.Options = []string{"bind"}
		s.Options = slices.DeleteFunc(s.Options, func(o string) bool { return o == optionBlockFile })
	}
}

// direct makes the guest mount the file system of a direct-assigned device.
func (v *volumes) direct(m *mountView, _ *agentpb.Mount) {
	d := m.src.Direct
	s := &agentpb.Storage{Driver: "blk", Fstype: d.FSType, Options: d.options(), FsGroup: d.group()}
	disk := m.src.Device.disk(d.readOnly())
	v.blocks = append(v.blocks, blockMount{disk, s, len(v.mounts)})
	v.directs = append(v.directs, DirectMount{Source: m.Source, disk: disk.ID})
}

// share makes the guest mount a network share that was direct-assigned.
func (v *volumes) share(m *mountView, g *agentpb.Mount) {
	d := m.src.Direct
	s := &agentpb.Storage{
		Driver: "smb", Source: d.Device, Fstype: d.FSType, Options: d.options(),
		MountPoint: mountPoint(d.Device),
	}
	v.shares = append(v.shares, s)
	v.directs = append(v.directs, DirectMount{Source: m.Source, share: d.Device})
	g.Source = s.MountPoint
}

// rawDevice is a block device that a container uses without a file system.
type rawDevice struct {
	disk hypervisor.Disk
	path string // in the container
}

// rawDevices lists the block devices of a spec. A container that is given every
// device of the host gets those of the guest instead, or it would get the
// host's own disks.
func rawDevices(spec *specs.Spec, o *Options) ([]rawDevice, error) {
	var raw []rawDevice
	for _, d := range spec.Linux.Devices {
		if d.Type != "b" {
			continue
		}
		refuse := func(class error, reason string) ([]rawDevice, error) {
			return nil, fmt.Errorf("spec: block device %s (%d:%d): %s: %w", d.Path, d.Major, d.Minor, reason, class)
		}
		if everyDevice(spec) {
			return refuse(errdefs.ErrNotImplemented, "the container is given every device of the host, which a guest cannot have; set privileged_without_host_devices for its runtime")
		}
		on, ok := o.Devices[d.Path]
		if !ok {
			return refuse(errdefs.ErrNotFound, "the host has no node for it")
		}
		raw = append(raw, rawDevice{on.disk(!writable(spec, d)), d.Path})
	}
	return raw, nil
}

// everyDevice says whether the cgroup rules of a spec allow all devices.
func everyDevice(spec *specs.Spec) bool {
	r := spec.Linux.Resources
	return r != nil && slices.ContainsFunc(r.Devices, func(d specs.LinuxDeviceCgroup) bool {
		return d.Allow && (d.Type == "" || d.Type == "a") && d.Major == nil && d.Minor == nil
	})
}

// writable says whether the cgroup rules of a spec let a container write to a
// device. Without a rule for it they do not matter: the machine is the limit.
func writable(spec *specs.Spec, d specs.LinuxDevice) bool {
	if spec.Linux.Resources == nil {
		return true
	}
	result := true
	for _, r := range spec.Linux.Resources.Devices {
		if r.Allow && r.Major != nil && r.Minor != nil && *r.Major == d.Major && *r.Minor == d.Minor && (r.Type == "b" || r.Type == "a" || r.Type == "") {
			result = slices.Contains([]byte(r.Access), 'w')
		}
	}
	return result
}

// addDisk enters a disk unless it is there: one device is plugged once. It is
// read-only if all its users want that.
func (p *Plan) addDisk(d hypervisor.Disk) {
	for i := range p.Volumes {
		if p.Volumes[i].ID == d.ID {
			p.Volumes[i].ReadOnly = p.Volumes[i].ReadOnly && d.ReadOnly
			return
		}
	}
	p.Volumes = append(p.Volumes, d)
}
