package ocispec

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// SetDevice makes the device that a container sees at path be the guest's device
// node, and lets the container use it.
func SetDevice(spec *specs.Spec, path, node string) error {
	if spec.Linux == nil {
		return fmt.Errorf("Missing linux section in OCI spec: %w", errdefs.ErrInvalidArgument)
	}
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		return fmt.Errorf("device node %s: %w", node, err)
	}
	major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	found := false
	for i := range spec.Linux.Devices {
		d := &spec.Linux.Devices[i]
		if d.Path != path {
			continue
		}
		found = true
		if r := spec.Linux.Resources; r != nil {
			for j := range r.Devices {
				rule := &r.Devices[j]
				if rule.Type == d.Type && rule.Major != nil && rule.Minor != nil && *rule.Major == d.Major && *rule.Minor == d.Minor {
					rule.Major, rule.Minor = &major, &minor
				}
			}
		}
		d.Major, d.Minor = major, minor
		allow(spec, d.Type, major, minor)
	}
	if !found {
		return fmt.Errorf("Missing devices in OCI spec: none has the path %s: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// AllowDevice lets a container use the block device whose node is bound into it.
func AllowDevice(spec *specs.Spec, node string) error {
	if spec.Linux == nil {
		return fmt.Errorf("Missing linux section in OCI spec: %w", errdefs.ErrInvalidArgument)
	}
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		return fmt.Errorf("device node %s: %w", node, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fmt.Errorf("device node %s is no block device: %w", node, errdefs.ErrInvalidArgument)
	}
	allow(spec, "b", int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)))
	return nil
}

func allow(spec *specs.Spec, kind string, major, minor int64) {
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
		specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: "rwm"})
}
