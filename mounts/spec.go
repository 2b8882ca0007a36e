package mounts

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// Annotations that the guest gets beside those of the spec, or does not get.
const (
	annotationBundle = "io.katacontainers.pkg.oci.bundle_path"
	annotationType   = "io.katacontainers.pkg.oci.container_type"
	annotationNetNS  = "nerdctl/network-namespace"
	annotationPolicy = "io.katacontainers.config.agent.policy"
)

// guestSpec converts a spec to what the guest gets of it, less root and mounts.
// What belongs to the host stays behind: hooks, labels of SELinux, cgroup rules
// for devices, processes and block IO, cpusets, and the namespaces that the
// guest makes itself. What can neither be carried nor left out is refused.
func guestSpec(spec *specs.Spec, o Options) (*agentpb.Spec, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	l := spec.Linux
	g := &agentpb.Spec{
		Version:     o.ociVersion(),
		Process:     guestProcess(spec.Process),
		Hostname:    spec.Hostname,
		Annotations: guestAnnotations(spec.Annotations, o),
		Linux: &agentpb.Linux{
			UIDMappings:       convert(l.UIDMappings, idMapping),
			GIDMappings:       convert(l.GIDMappings, idMapping),
			Sysctl:            maps.Clone(l.Sysctl),
			Resources:         Resources(l.Resources),
			CgroupsPath:       l.CgroupsPath,
			Namespaces:        guestNamespaces(l.Namespaces),
			Devices:           convert(l.Devices, device),
			RootfsPropagation: l.RootfsPropagation,
			MaskedPaths:       maskedPaths(l.MaskedPaths),
			ReadonlyPaths:     slices.Clone(l.ReadonlyPaths),
		},
	}
	if !o.DisableGuestSeccomp && l.Seccomp != nil {
		g.Linux.Seccomp = seccomp(l.Seccomp)
	}
	return g, nil
}

// checkSpec refuses what the protocol has no words for and a container would
// miss.
func checkSpec(spec *specs.Spec) error {
	if spec == nil || spec.Process == nil || spec.Linux == nil {
		return fmt.Errorf("spec has no process or no linux section: %w", errdefs.ErrInvalidArgument)
	}
	if len(spec.Process.Args) == 0 {
		return fmt.Errorf("spec: process has no arguments: %w", errdefs.ErrInvalidArgument)
	}
	p, l := spec.Process, spec.Linux
	for _, c := range []struct {
		field string
		set   bool
	}{
		{"domainname", spec.Domainname != ""},
		{"solaris", spec.Solaris != nil},
		{"windows", spec.Windows != nil},
		{"vm", spec.VM != nil},
		{"zos", spec.ZOS != nil},
		{"freebsd", spec.FreeBSD != nil},
		{"process.commandLine", p.CommandLine != ""},
		{"process.scheduler", p.Scheduler != nil},
		{"process.ioPriority", p.IOPriority != nil},
		{"process.execCPUAffinity", p.ExecCPUAffinity != nil},
		{"process.user.umask", p.User.Umask != nil && *p.User.Umask != 0o022},
		{"linux.netDevices", len(l.NetDevices) > 0},
		{"linux.memoryPolicy", l.MemoryPolicy != nil},
		{"linux.personality", l.Personality != nil},
		{"linux.timeOffsets", len(l.TimeOffsets) > 0},
		{"linux.seccomp.listenerPath", l.Seccomp != nil && l.Seccomp.ListenerPath != ""},
	} {
		if c.set {
			return fmt.Errorf("spec: %s cannot be carried into the guest: %w", c.field, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

func guestAnnotations(from map[string]string, o Options) map[string]string {
	a := map[string]string{}
	for key, value := range from {
		if forGuest(key) {
			a[key] = value
		}
	}
	a[annotationBundle] = o.Bundle
	a[annotationType] = string(o.Type)
	if o.Type != PodContainer && o.NetNS != "" {
		a[annotationNetNS] = o.NetNS
	}
	return a
}

// guestNamespaces keeps the kinds that the guest's agent is to make, without the
// paths, which name namespaces of the host. Network, cgroup, time and pid
// namespaces are the agent's to decide.
func guestNamespaces(from []specs.LinuxNamespace) []*agentpb.LinuxNamespace {
	var to []*agentpb.LinuxNamespace
	for _, n := range from {
		switch n.Type {
		case specs.NetworkNamespace, specs.CgroupNamespace, specs.TimeNamespace, specs.PIDNamespace:
		default:
			to = append(to, &agentpb.LinuxNamespace{Type: string(n.Type)})
		}
	}
	return to
}

// sharesPIDs reports whether a container joins the pid namespace of its pod.
func sharesPIDs(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace && n.Path != ""
	})
}

func guestProcess(p *specs.Process) *agentpb.Process {
	g := &agentpb.Process{
		Terminal: p.Terminal,
		User: &agentpb.User{
			UID: p.User.UID, GID: p.User.GID,
			AdditionalGids: slices.Clone(p.User.AdditionalGids), Username: p.User.Username,
		},
		Args:            slices.Clone(p.Args),
		Env:             slices.Clone(p.Env),
		Cwd:             p.Cwd,
		Capabilities:    capabilities(p.Capabilities),
		Rlimits:         convert(p.Rlimits, rlimit),
		NoNewPrivileges: p.NoNewPrivileges,
		ApparmorProfile: p.ApparmorProfile,
		OOMScoreAdj:     int64(value(p.OOMScoreAdj)),
	}
	if p.ConsoleSize != nil {
		g.ConsoleSize = &agentpb.Box{Height: uint32(p.ConsoleSize.Height), Width: uint32(p.ConsoleSize.Width)}
	}
	return g
}

func capabilities(c *specs.LinuxCapabilities) *agentpb.LinuxCapabilities {
	if c == nil {
		return nil
	}
	return &agentpb.LinuxCapabilities{
		Bounding: slices.Clone(c.Bounding), Effective: slices.Clone(c.Effective), Inheritable: slices.Clone(c.Inheritable),
		Permitted: slices.Clone(c.Permitted), Ambient: slices.Clone(c.Ambient),
	}
}

func rlimit(r specs.POSIXRlimit) *agentpb.POSIXRlimit {
	return &agentpb.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft}
}

func idMapping(m specs.LinuxIDMapping) *agentpb.LinuxIDMapping {
	return &agentpb.LinuxIDMapping{HostID: m.HostID, ContainerID: m.ContainerID, Size: m.Size}
}

func device(d specs.LinuxDevice) *agentpb.LinuxDevice {
	return &agentpb.LinuxDevice{
		Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor,
		FileMode: uint32(value(d.FileMode)), UID: value(d.UID), GID: value(d.GID),
	}
}

// Resources converts the limits that hold inside the guest: memory, CPU time and
// huge pages. Everything else limits what the host owns.
func Resources(r *specs.LinuxResources) *agentpb.LinuxResources {
	if r == nil {
		return nil
	}
	g := &agentpb.LinuxResources{HugepageLimits: convert(r.HugepageLimits, hugepages)}
	if m := r.Memory; m != nil {
		g.Memory = &agentpb.LinuxMemory{
			Limit: value(m.Limit), Reservation: value(m.Reservation), Swap: value(m.Swap),
			KernelTCP: value(m.KernelTCP), Swappiness: value(m.Swappiness), DisableOOMKiller: value(m.DisableOOMKiller),
		}
	}
	if c := r.CPU; c != nil {
		g.CPU = &agentpb.LinuxCPU{
			Shares: value(c.Shares), Quota: value(c.Quota), Period: value(c.Period),
			RealtimeRuntime: value(c.RealtimeRuntime), RealtimePeriod: value(c.RealtimePeriod),
		}
	}
	return g
}

func hugepages(h specs.LinuxHugepageLimit) *agentpb.LinuxHugepageLimit {
	return &agentpb.LinuxHugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit}
}

func seccomp(s *specs.LinuxSeccomp) *agentpb.LinuxSeccomp {
	return &agentpb.LinuxSeccomp{
		DefaultAction: string(s.DefaultAction),
		Architectures: convert(s.Architectures, func(a specs.Arch) string { return string(a) }),
		Flags:         convert(s.Flags, func(f specs.LinuxSeccompFlag) string { return string(f) }),
		Syscalls:      convert(s.Syscalls, syscallRule),
	}
}

func syscallRule(s specs.LinuxSyscall) *agentpb.LinuxSyscall {
	g := &agentpb.LinuxSyscall{
		Names: slices.Clone(s.Names), Action: string(s.Action),
		Args: convert(s.Args, func(a specs.LinuxSeccompArg) *agentpb.LinuxSeccompArg {
			return &agentpb.LinuxSeccompArg{Index: uint64(a.Index), Value: a.Value, ValueTwo: a.ValueTwo, Op: string(a.Op)}
		}),
	}
	if s.ErrnoRet != nil {
		g.ErrnoRet = &agentpb.LinuxSyscall_Errnoret{Errnoret: uint32(*s.ErrnoRet)}
	}
	return g
}

// value is *p, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func convert[A, B any](from []A, f func(A) B) []B {
	if from == nil {
		return nil
	}
	to := make([]B, len(from))
	for i, a := range from {
		to[i] = f(a)
	}
	return to
}
