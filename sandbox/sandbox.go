// Package sandbox runs a pod: one virtual machine with an agent in it, the
// containers and their processes, the layers they share. It is the one place
// that knows in which order things are done to host and guest.
//
// Life of a sandbox:
//
//	state     trigger                             next
//	New       Start                               Starting
//	Starting  the agent is ready for containers   Running
//	Starting  a step failed, Stop, machine died   Stopping
//	Running   Stop, machine died, agent lost,     Stopping
//	          the sandbox's own container ended
//	Stopping  everything was taken back           Stopped
//
// A step of a teardown that fails leaves the sandbox Stopping, and Stop may be
// called again. The sandbox's own container is the one with the sandbox's id:
// the pause container of a pod, or the only container there is.
//
// No lock is held over a request to the guest, a call to the VMM or a copy. What
// happens by itself leaves through Options.Events, in order, and never calls
// back into the caller's code otherwise.
package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/network"
	"github.com/kata-cc/kata-cc/network/portforward"
	"github.com/kata-cc/kata-cc/volumes"
)

// AgentPort is the vsock port of the guest that the agent listens on.
const AgentPort = 1024

// Options says what a sandbox is to be. It is not changed after NewSandbox.
type Options struct {
	ID       string
	Launcher hypervisor.Launcher
	// Machine describes the machine, but for ID, NetNS and NICs, which Start
	// fills in.
	Machine hypervisor.Spec
	// Growth says how the machine follows its containers; nil: it keeps its size.
	Growth *configuration.Growth
	// NetNS is the path of the pod's network namespace; empty: the guest gets no
	// network and the VMM runs in the caller's namespace.
	NetNS string
	// OwnNetNS says that NetNS is OwnNetNS(ID), to be made by Start and to go with
	// the sandbox.
	OwnNetNS bool
	// Hooks run on the host. They need a NetNS.
	Hooks Hooks
	// CgroupsPath is where the VMM is to run, in the form of the runtime
	// specification; empty: it stays in the caller's cgroup.
	CgroupsPath string
	// Request prepares the guest for the sandbox.
	Request *agentpb.CreateSandboxRequest
	// Policy is the text of the policy to set in the guest; empty: none is set.
	Policy string
	// DialTimeout bounds the wait for the agent after Boot; 0: 45 s.
	DialTimeout time.Duration
	// CreateTimeout bounds the creation of a container in the guest; 0: a minute.
	CreateTimeout time.Duration
	// StateDir is where the record of the sandbox is kept; empty: DefaultStateDir.
	StateDir string
	// Events takes what happens, one after another. It must not block.
	Events func(Event)
}

// Sandbox is one pod. It is safe for concurrent use.
type Sandbox struct {
	o       Options
	life    context.Context // ends when the machine is lost or to be stopped; the cause says why
	end     context.CancelCauseFunc
	sizing  sizing
	settled chan struct{} // closed when Start has ended
	undo    undo.Stack

	// Set by Start, and then by what watches the network.
	ports        *portforward.Forwarder // nil: the pod has had no address
	portsRefused bool                   // the kernel cannot forward them
	leaving      []leavingNIC

	// Set by Start, in this order, and only read afterwards.
	network  *network.Network
	vm       hypervisor.VM
	agent    *agentclient.Client
	volumes  *volumes.Set
	position func(hypervisor.BDF) (string, error) // the form that the agent reads
	rootBus  bool                                 // the agent finds disks on the root bus only
	// microseconds says that the agent counts so where its cgroups do.
	microseconds bool

	mu         sync.Mutex
	state      State
	record     Record
	containers map[string]*Container
	layers     map[string]*layer // by the disk id of a plan
	plugs      map[string]int    // how often each was plugged
	directs    map[string]direct // direct-assigned volumes, by the host's path of each
	stop       *flight           // the latest teardown
}

// NewSandbox makes a sandbox and touches nothing. Of ctx only the values are
// kept, which carry the logger.
func NewSandbox(ctx context.Context, o Options) *Sandbox {
	if o.StateDir == "" {
		o.StateDir = DefaultStateDir
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = defaultDialTimeout
	}
	s := &Sandbox{
		o:          o,
		settled:    make(chan struct{}),
		sizing:     newSizing(o.Machine),
		containers: map[string]*Container{},
		layers:     map[string]*layer{},
		plugs:      map[string]int{},
		directs:    map[string]direct{},
	}
	s.life, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

// ID returns the sandbox's id.
func (s *Sandbox) ID() string { return s.o.ID }

// PID returns the VMM's process id, 0 before there is one. It stays the same
// after the VMM's end.
func (s *Sandbox) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.VMM.PID
}

// Container finds a container that was created and not deleted.
func (s *Sandbox) Container(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok || c.init == nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// within gives a context that ends with ctx or with the sandbox's life, whichever
// is first, and says why.
func (s *Sandbox) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}

// processes lists every process there is.
func (s *Sandbox) processes() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*Process
	for _, c := range s.containers {
		for _, e := range c.execs {
			all = append(all, e)
		}
		if c.init != nil {
			all = append(all, c.init)
		}
	}
	return all
}
