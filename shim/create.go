package shim

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
)

// Create implements the API. The first container of a sandbox brings its machine
// up; the later ones of a pod come into the same machine. If it fails, or the
// caller goes away, nothing is left.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	ctx = withTask(ctx, r.ID, "")
	if err := checkID(r.ID); err != nil {
		return nil, err
	}
	if r.Checkpoint != "" {
		return nil, fmt.Errorf("create container %s from a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	t := &task{
		id: r.ID, bundle: r.Bundle, execs: map[string]stdioPaths{},
		stdio: stdioPaths{stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, terminal: r.Terminal},
	}
	if err := s.reserve(t); err != nil {
		return nil, err
	}
	c, err := s.create(ctx, t, r)
	if errdefs.IsNotFound(err) {
		// To containerd NotFound says that the task is gone, not that a file was missing.
		err = fmt.Errorf("%v: %w", err, errdefs.ErrFailedPrecondition)
	}
	s.mu.Lock()
	if err != nil {
		delete(s.tasks, r.ID)
	} else {
		t.container = c
	}
	s.mu.Unlock()
	if err != nil {
		log.G(ctx).WithError(err).Error("container was not created")
		return nil, err
	}
	pid := s.pid()
	s.events.send(&events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: pid,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	return &taskapi.CreateTaskResponse{Pid: pid}, nil
}

func (s *Service) reserve(t *task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exiting {
		return fmt.Errorf("create container %s: the shim is ending: %w", t.id, errdefs.ErrUnavailable)
	}
	if _, ok := s.tasks[t.id]; ok {
		return fmt.Errorf("container %s: %w", t.id, errdefs.ErrAlreadyExists)
	}
	s.tasks[t.id] = t
	s.gone.forget(t.id)
	return nil
}

func (s *Service) create(ctx context.Context, t *task, r *taskapi.CreateTaskRequest) (*sandbox.Container, error) {
	if _, err := parseStdio(t.stdio); err != nil {
		return nil, err
	}
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return nil, err
	}
	kind, sandboxID, err := mounts.Identify(spec.Annotations, r.ID)
	if err != nil {
		return nil, err
	}
	if p, poderr := s.podOf(sandboxID); poderr == nil {
		p.addTo(spec)
	}
	config, err := s.configure(ctx, r.Options)
	if err != nil {
		return nil, err
	}
	o, err := planOptions(spec, config, t, kind, sandboxID)
	if err != nil {
		return nil, err
	}
	var rootfs []mounts.Rootfs
	for _, m := range r.Rootfs {
		rootfs = append(rootfs, mounts.Rootfs{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	plan, err := mounts.New(spec, rootfs, o)
	if err != nil {
		return nil, err
	}
	open := s.opener(ctx, t.stdio, r.ID)
	if kind == mounts.PodContainer {
		sb, sberr := s.runningSandbox(sandboxID)
		if sberr != nil {
			return nil, fmt.Errorf("create container %s: %w", r.ID, sberr)
		}
		c, cerr := sb.CreateContainer(ctx, r.ID, spec, plan, open)
		if cerr == nil {
			s.monitorVolumes(ctx, sb, plan)
		}
		return c, cerr
	}

	sb, err := s.newSandbox(ctx, spec, config, o)
	if err != nil {
		return nil, err
	}
	c, err := s.bringUp(ctx, sb, spec, plan, open)
	if err != nil {
		s.mu.Lock()
		s.sandbox = nil
		s.mu.Unlock()
	} else {
		s.monitorVolumes(ctx, sb, plan)
	}
	return c, err
}

// bringUp starts a sandbox and creates its own container.
func (s *Service) bringUp(ctx context.Context, sb *sandbox.Sandbox, spec *specs.Spec, plan *mounts.Plan, open sandbox.OpenStdio) (*sandbox.Container, error) {
	// Before the machine is booted for it.
	if err := plan.CheckDisks(); err != nil {
		return nil, err
	}
	if err := sb.Start(ctx); err != nil {
		return nil, err
	}
	return sb.CreateContainer(ctx, sb.ID(), spec, plan, open)
}

// configure loads the configuration at the first Create, from the file that
// containerd's options name.
func (s *Service) configure(ctx context.Context, options *anypb.Any) (*configuration.Config, error) {
	s.mu.Lock()
	c := s.config
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	explicit, err := ConfigPath(options)
	if err != nil {
		return nil, err
	}
	path, err := configuration.Find(explicit)
	if err != nil {
		return nil, err
	}
	if c, err = configuration.Load(path); err != nil {
		return nil, err
	}
	for _, w := range c.Warnings {
		log.G(ctx).Warn(w)
	}
	if c.Runtime.Debug {
		if err := log.SetLevel("debug"); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
	return c, nil
}

func planOptions(spec *specs.Spec, config *configuration.Config, t *task, kind mounts.ContainerType, sandboxID string) (mounts.Options, error) {
	sources, err := mounts.Inspect(spec)
	if err != nil {
		return mounts.Options{}, err
	}
	var huge map[string]uint64
	if mounts.OnHugePages(sources) && spec.Linux != nil && spec.Linux.CgroupsPath != "" {
		if huge, err = sandbox.PodHugePages(spec.Linux.CgroupsPath); err != nil {
			return mounts.Options{}, err
		}
	}
	ns := netNS(spec)
	if ns == "" && kind != mounts.PodContainer && config.Runtime.Network != configuration.NoNetwork {
		ns = sandbox.OwnNetNS(sandboxID)
	}
	return mounts.Options{
		SandboxID: sandboxID, ContainerID: t.id, Bundle: t.bundle, Type: kind,
		DisableGuestSeccomp: config.Runtime.DisableGuestSeccomp,
		OCIVersion:          config.Runtime.OCIVersion,
		Sources:             sources,
		PodHugePages:        huge,
		Devices:             mounts.InspectDevices(spec),
		NetNS:               ns,
		KernelModules:       config.Agent.KernelModules,
	}, nil
}

// netNS returns the path of the network namespace that a spec names; empty if it
// names none, or asks for a new one.
func netNS(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path
		}
	}
	return ""
}

// hostNetwork reports whether a container wants the host's own network, which
// a guest cannot have.
func hostNetwork(spec *specs.Spec) bool {
	if spec.Linux == nil {
		return true
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return false
		}
	}
	return true
}

// runningSandbox returns the sandbox for a later container of a pod.
func (s *Service) runningSandbox(id string) (*sandbox.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil {
		return nil, fmt.Errorf("sandbox %s does not run: %w", id, errdefs.ErrFailedPrecondition)
	}
	if got := s.sandbox.ID(); got != id {
		return nil, fmt.Errorf("it belongs to sandbox %s, but this is the shim of %s: %w", id, got, errdefs.ErrInvalidArgument)
	}
	return s.sandbox, nil
}

// newSandbox makes the shim's one sandbox and touches nothing yet.
func (s *Service) newSandbox(ctx context.Context, spec *specs.Spec, config *configuration.Config, o mounts.Options) (*sandbox.Sandbox, error) {
	if hostNetwork(spec) {
		return nil, fmt.Errorf("sandbox %s: a virtual machine cannot share the host's network: %w", o.SandboxID, errdefs.ErrInvalidArgument)
	}
	config, err := config.Override(spec.Annotations)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", o.SandboxID, err)
	}
	launcher, err := s.o.NewLauncher(config)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", o.SandboxID, err)
	}
	policy, _, err := configuration.Policy(spec.Annotations)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", o.SandboxID, err)
	}
	vm, growth, err := machine(spec, config, o.Type, policy)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", o.SandboxID, err)
	}
	resolvConf, err := mounts.ResolvConf(spec)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", o.SandboxID, err)
	}
	shmSize, err := mounts.ShmSize(spec)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", o.SandboxID, err)
	}
	options := sandbox.Options{
		ID:            o.SandboxID,
		Launcher:      launcher,
		Machine:       vm,
		Growth:        growth,
		Request:       mounts.NewSandboxRequest(spec, o, resolvConf, shmSize),
		Policy:        policy,
		DialTimeout:   config.Agent.DialTimeout,
		CreateTimeout: config.Runtime.CreateContainerTimeout,
		StateDir:      s.o.StateDir,
		Events:        s.publish,
	}
	if config.Runtime.Network != configuration.NoNetwork {
		options.NetNS = o.NetNS
		options.OwnNetNS = o.NetNS == sandbox.OwnNetNS(o.SandboxID)
		options.Hooks = sandbox.NewHooks(spec, o.Bundle)
	}
	if spec.Linux != nil {
		options.CgroupsPath = spec.Linux.CgroupsPath
	}
	sb := sandbox.NewSandbox(log.WithLogger(ctx, log.G(ctx).WithField("sandbox", o.SandboxID)), options)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox != nil {
		return nil, fmt.Errorf("sandbox %s: this is the shim of sandbox %s: %w", o.SandboxID, s.sandbox.ID(), errdefs.ErrAlreadyExists)
	}
	s.sandbox = sb
	return sb, nil
}

// machine describes the machine that a sandbox needs, and how it grows if it does.
func machine(spec *specs.Spec, config *configuration.Config, kind mounts.ContainerType, policy string) (hypervisor.Spec, *configuration.Growth, error) {
	workload := configuration.PodWorkload(spec.Annotations)
	if kind == mounts.SingleContainer && spec.Linux != nil {
		workload = configuration.ContainerWorkload(spec.Linux.Resources)
	}
	growth, err := config.Growth()
	var size, most configuration.Size
	if growth != nil {
		size, most = growth.Boot, growth.Most
	} else if err == nil {
		size, err = config.Size(workload)
	}
	if err != nil {
		return hypervisor.Spec{}, nil, err
	}
	h := config.Hypervisor
	m := hypervisor.Spec{
		VCPUs: size.VCPUs, MemoryMiB: size.MemoryMiB, MaxVCPUs: most.VCPUs, MaxMemoryMiB: most.MemoryMiB, Hugepages: h.Hugepages,
		Kernel: h.Kernel, Initrd: h.Initrd, Image: h.Image,
		KernelParams: config.KernelParams(),
		DiskRate:     hypervisor.Rate(h.DiskRate), NICRate: hypervisor.Rate(h.NICRate),
		Debug: h.Debug,
	}
	if h.Confidential {
		hostData, err := config.HostData(policy)
		if err != nil {
			return hypervisor.Spec{}, nil, err
		}
		m.Confidential = &hypervisor.Confidential{IGVM: h.IGVM, HostData: hostData}
	}
	return m, growth, nil
}
