// Package ocispec turns the protocol's form of a container's specification into
// the OCI runtime specification, and fits that into the guest.
package ocispec

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// defaultDeviceMode is the mode of a device whose specification gives none.
const defaultDeviceMode = os.FileMode(0o666)

// Version is what a specification calls itself in the guest, whatever the host
// called it: the protocol can say nothing that this version lacks, and a runtime
// of the guest's age refuses newer ones.
const Version = "1.0.2"

// New converts a specification. Numbers which the protocol cannot leave out and
// which are 0 are left out.
func New(s *agentpb.Spec) *specs.Spec {
	spec := &specs.Spec{
		Version:     Version,
		Process:     NewProcess(s.GetProcess()),
		Hostname:    s.GetHostname(),
		Annotations: s.GetAnnotations(),
		Hooks:       newHooks(s.GetHooks()),
	}
	if r := s.GetRoot(); r != nil {
		spec.Root = &specs.Root{Path: r.GetPath(), Readonly: r.GetReadonly()}
	}
	for _, m := range s.GetMounts() {
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: m.GetDestination(), Type: m.GetType(), Source: m.GetSource(), Options: m.GetOptions(),
		})
	}
	if l := s.GetLinux(); l != nil {
		spec.Linux = newLinux(l)
	}
	return spec
}

// NewProcess converts the specification of a process; nil stays nil.
func NewProcess(p *agentpb.Process) *specs.Process {
	if p == nil {
		return nil
	}
	adj := int(p.GetOOMScoreAdj())
	process := &specs.Process{
		Terminal:        p.GetTerminal(),
		Args:            p.GetArgs(),
		Env:             p.GetEnv(),
		Cwd:             p.GetCwd(),
		NoNewPrivileges: p.GetNoNewPrivileges(),
		OOMScoreAdj:     &adj,
		User: specs.User{
			UID: p.GetUser().GetUID(), GID: p.GetUser().GetGID(),
			AdditionalGids: p.GetUser().GetAdditionalGids(), Username: p.GetUser().GetUsername(),
		},
	}
	if process.Cwd == "" {
		process.Cwd = "/"
	}
	if b := p.GetConsoleSize(); b.GetHeight() > 0 && b.GetWidth() > 0 {
		process.ConsoleSize = &specs.Box{Height: uint(b.GetHeight()), Width: uint(b.GetWidth())}
	}
	if c := p.GetCapabilities(); c != nil {
		process.Capabilities = &specs.LinuxCapabilities{
			Bounding: c.GetBounding(), Effective: c.GetEffective(), Inheritable: c.GetInheritable(),
			Permitted: c.GetPermitted(), Ambient: c.GetAmbient(),
		}
	}
	for _, r := range p.GetRlimits() {
		process.Rlimits = append(process.Rlimits, specs.POSIXRlimit{Type: r.GetType(), Hard: r.GetHard(), Soft: r.GetSoft()})
	}
	return process
}

func newHooks(h *agentpb.Hooks) *specs.Hooks {
	if h == nil {
		return nil
	}
	hooks := &specs.Hooks{
		Poststart: newHookList(h.GetPoststart()), Poststop: newHookList(h.GetPoststop()),
		CreateRuntime: newHookList(h.GetCreateRuntime()), CreateContainer: newHookList(h.GetCreateContainer()),
		StartContainer: newHookList(h.GetStartContainer()),
	}
	// The specification's successor of prestart runs at the same place.
	hooks.CreateRuntime = append(newHookList(h.GetPrestart()), hooks.CreateRuntime...)
	return hooks
}

func newHookList(list []*agentpb.Hook) []specs.Hook {
	var hooks []specs.Hook
	for _, h := range list {
		hook := specs.Hook{Path: h.GetPath(), Args: h.GetArgs(), Env: h.GetEnv()}
		if t := int(h.GetTimeout()); t > 0 {
			hook.Timeout = &t
		}
		hooks = append(hooks, hook)
	}
	return hooks
}

func newLinux(l *agentpb.Linux) *specs.Linux {
	linux := &specs.Linux{
		Sysctl:            l.GetSysctl(),
		CgroupsPath:       l.GetCgroupsPath(),
		RootfsPropagation: l.GetRootfsPropagation(),
		MaskedPaths:       l.GetMaskedPaths(),
		ReadonlyPaths:     l.GetReadonlyPaths(),
		Resources:         NewResources(l.GetResources()),
		Seccomp:           newSeccomp(l.GetSeccomp()),
	}
	for _, n := range l.GetNamespaces() {
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(n.GetType()), Path: n.GetPath()})
	}
	for _, d := range l.GetDevices() {
		mode, uid, gid := os.FileMode(d.GetFileMode()), d.GetUID(), d.GetGID()
		if mode == 0 {
			mode = defaultDeviceMode
		}
		linux.Devices = append(linux.Devices, specs.LinuxDevice{
			Path: d.GetPath(), Type: d.GetType(), Major: d.GetMajor(), Minor: d.GetMinor(),
			FileMode: &mode, UID: &uid, GID: &gid,
		})
	}
	return linux
}

func newSeccomp(s *agentpb.LinuxSeccomp) *specs.LinuxSeccomp {
	if s == nil || s.GetDefaultAction() == "" {
		return nil
	}
	seccomp := &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(s.GetDefaultAction())}
	for _, a := range s.GetArchitectures() {
		seccomp.Architectures = append(seccomp.Architectures, specs.Arch(a))
	}
	for _, f := range s.GetFlags() {
		seccomp.Flags = append(seccomp.Flags, specs.LinuxSeccompFlag(f))
	}
	for _, c := range s.GetSyscalls() {
		call := specs.LinuxSyscall{Names: c.GetNames(), Action: specs.LinuxSeccompAction(c.GetAction())}
		if e, ok := c.GetErrnoRet().(*agentpb.LinuxSyscall_Errnoret); ok {
			errno := uint(e.Errnoret)
			call.ErrnoRet = &errno
		}
		for _, a := range c.GetArgs() {
			call.Args = append(call.Args, specs.LinuxSeccompArg{
				Index: uint(a.GetIndex()), Value: a.GetValue(), ValueTwo: a.GetValueTwo(), Op: specs.LinuxSeccompOperator(a.GetOp()),
			})
		}
		seccomp.Syscalls = append(seccomp.Syscalls, call)
	}
	return seccomp
}
