package mounts

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// DefaultShmSize is the size of a sandbox's /dev/shm unless its spec says
// otherwise, in bytes.
const DefaultShmSize = 64 << 20

// maxHostname is the longest name that the kernel takes.
const maxHostname = 64

// NewSandboxRequest makes the request that prepares the guest. spec is that of
// the sandbox's first container; resolvConf is the content of its resolv.conf,
// nil if it has none; shmSize is the size of its /dev/shm in bytes, 0 for none.
func NewSandboxRequest(spec *specs.Spec, o Options, resolvConf []byte, shmSize uint64) *agentpb.CreateSandboxRequest {
	r := &agentpb.CreateSandboxRequest{SandboxId: o.SandboxID, Hostname: spec.Hostname[:min(len(spec.Hostname), maxHostname)]}
	if resolvConf != nil {
		r.Dns = strings.Split(string(resolvConf), "\n")
	}
	if shmSize > 0 {
		r.Storages = []*agentpb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: shmDir,
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=" + strconv.FormatUint(shmSize, 10)},
		}}
	}
	for _, m := range o.KernelModules {
		if f := strings.Fields(m); len(f) > 0 {
			r.KernelModules = append(r.KernelModules, &agentpb.KernelModule{Name: f[0], Parameters: f[1:]})
		}
	}
	return r
}

// NewExecRequest makes the request that runs p in a container. container are the
// capabilities of the container's init process; equal ones are left to the
// agent, which then takes the container's, because some policies refuse an exec
// that names any.
func NewExecRequest(containerID, execID string, p *specs.Process, container *specs.LinuxCapabilities) *agentpb.ExecProcessRequest {
	g := guestProcess(p)
	if reflect.DeepEqual(p.Capabilities, container) {
		g.Capabilities = nil
	}
	return &agentpb.ExecProcessRequest{ContainerId: containerID, ExecId: execID, Process: g}
}
