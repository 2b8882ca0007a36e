package ocispec

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Guest is what a container's specification must fit.
type Guest struct {
	// IPC and UTS are the paths of the sandbox's namespaces, which every
	// container joins.
	IPC, UTS string
	// PID is the path of the sandbox's pid namespace; empty for one of its own.
	PID string
	// Rootfs is where the container's root is mounted.
	Rootfs string
	// ContainerID names the cgroup of a container whose specification gives none.
	ContainerID string
}

// Fit changes spec so that it holds in the guest, and takes out the network's
// kernel parameters, which the caller sets for the whole guest: the guest's
// network is the pod's. Paths of namespaces which the host sent are never used.
func Fit(spec *specs.Spec, g Guest) (sysctl map[string]string, err error) {
	if spec.Process == nil || len(spec.Process.Args) == 0 {
		return nil, fmt.Errorf("specification of container %s has no process to run: %w", g.ContainerID, errdefs.ErrInvalidArgument)
	}
	if spec.Root == nil || !path.IsAbs(spec.Root.Path) {
		return nil, fmt.Errorf("specification of container %s has no absolute root path: %w", g.ContainerID, errdefs.ErrInvalidArgument)
	}
	if spec.Linux == nil {
		return nil, fmt.Errorf("specification of container %s has no linux section: %w", g.ContainerID, errdefs.ErrInvalidArgument)
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			return nil, fmt.Errorf("container %s asks for a user namespace, which the guest does not give: %w", g.ContainerID, errdefs.ErrInvalidArgument)
		}
	}
	for _, m := range spec.Mounts {
		if !path.IsAbs(m.Destination) || HasDotDot(m.Destination) {
			return nil, fmt.Errorf("container %s: mount destination %q is not an absolute path without \"..\": %w", g.ContainerID, m.Destination, errdefs.ErrInvalidArgument)
		}
	}
	spec.Root.Path = g.Rootfs
	spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
		{Type: specs.PIDNamespace, Path: g.PID},
		{Type: specs.IPCNamespace, Path: g.IPC}, {Type: specs.UTSNamespace, Path: g.UTS},
	}
	spec.Linux.CgroupsPath = CgroupPath(spec.Linux.CgroupsPath, g.ContainerID)
	sysctl = make(map[string]string)
	kept := make(map[string]string)
	for k, v := range spec.Linux.Sysctl {
		switch {
		case strings.HasPrefix(k, "net."):
			sysctl[k] = v
		case namespacedSysctl(k):
			kept[k] = v
		default:
			return nil, fmt.Errorf("container %s: Sysctl config contains invalid settings: %q is the whole guest's: %w", g.ContainerID, k, errdefs.ErrInvalidArgument)
		}
	}
	spec.Linux.Sysctl = maps.Clone(kept)
	return sysctl, nil
}

// namespacedSysctl says whether a kernel parameter is one of the namespaces that
// a container has: ipc's, and the domain name of uts. The host name is the pod's.
func namespacedSysctl(name string) bool {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
		"kernel.shmmni", "kernel.shm_rmid_forced", "kernel.domainname", "fs.mqueue.queues_max",
		"fs.mqueue.msg_max", "fs.mqueue.msgsize_max", "fs.mqueue.msg_default", "fs.mqueue.msgsize_default":
		return true
	}
	return false
}

// systemdCgroup is how the systemd driver writes a cgroup: slice:prefix:name.
var systemdCgroup = regexp.MustCompile(`^[\w.-]*:[\w.-]*(:[\w.-]*)?$`)

// CgroupPath is the path below the cgroup root for a container's CgroupsPath;
// no systemd runs in the guest, so that its form becomes a path too.
func CgroupPath(asked, containerID string) string {
	if systemdCgroup.MatchString(asked) {
		asked = strings.ReplaceAll(asked, ":", "/")
	}
	p := path.Clean("/" + asked)
	if p == "/" {
		return "/" + containerID
	}
	return p
}

// HasDotDot says whether a path has an element "..".
func HasDotDot(p string) bool {
	for e := range strings.SplitSeq(p, "/") {
		if e == ".." {
			return true
		}
	}
	return false
}

// SysctlPath is the file of a network parameter, or an error if the name would
// leave /proc/sys/net.
func SysctlPath(name string) (string, error) {
	// A dot in the name of an interface is written as a slash.
	p := strings.NewReplacer(".", "/", "/", ".").Replace(name)
	if HasDotDot(p) || !strings.HasPrefix(p, "net/") {
		return "", fmt.Errorf("kernel parameter %q is not one of the network: %w", name, errdefs.ErrInvalidArgument)
	}
	return "/proc/sys/" + p, nil
}
