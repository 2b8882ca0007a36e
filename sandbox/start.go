package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/network"
	"github.com/kata-cc/kata-cc/volumes"
)

// Start launches and boots the machine and waits until its agent is ready for
// containers. If it fails, or ctx ends, nothing is left.
func (s *Sandbox) Start(ctx context.Context) error {
	if err := s.move(New, Starting); err != nil {
		return err
	}
	err := s.boot(ctx)
	if err == nil {
		err = s.move(Starting, Running) // fails if the machine died under us
	}
	close(s.settled)
	if err != nil {
		return errors.Join(fmt.Errorf("start sandbox %s: %w", s.o.ID, err), s.Stop(context.WithoutCancel(ctx)))
	}
	go s.watchAgent()
	go s.watchHealth()
	go s.watchMemory()
	s.watchNetwork(ctx)
	return nil
}

func (s *Sandbox) boot(ctx context.Context) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	clock := newBudget(startPhases)
	for _, step := range []struct {
		phase string
		do    func(context.Context) error
	}{
		{"network", s.prepareHost},
		{"vmm", s.launch},
		{"boot", s.bootMachine},
		{"agent", s.connect},
		{"guest", s.prepareGuest},
		{"ports", func(ctx context.Context) error { s.forwardPorts(ctx); return nil }},
	} {
		if err := clock.run(ctx, step.phase, step.do); err != nil {
			return err
		}
	}
	clock.report(ctx, "sandbox started")
	return nil
}

func (s *Sandbox) bootMachine(ctx context.Context) error {
	if err := s.vm.Boot(ctx); err != nil {
		return fmt.Errorf("boot the virtual machine: %w", err)
	}
	return nil
}

// prepareHost writes the record and makes what the VMM is launched into.
func (s *Sandbox) prepareHost(ctx context.Context) error {
	record := Record{ID: s.o.ID, NetNS: s.o.NetNS, OwnNetNS: s.o.OwnNetNS}
	if s.o.CgroupsPath != "" {
		path, err := cgroupPath(s.o.CgroupsPath)
		if err != nil {
			return err
		}
		record.Cgroup, record.MadeTop = path, path
	}
	s.undo.Add(func(context.Context) error { return removeRecord(s.o.StateDir, s.o.ID) })
	if err := s.keep(record); err != nil {
		return err
	}

	if s.o.NetNS != "" {
		if err := s.prepareNetNS(ctx); err != nil {
			return err
		}
		s.undo.Add(func(ctx context.Context) error { return network.Detach(ctx, s.o.NetNS) })
		n, err := network.Attach(ctx, s.o.NetNS)
		if err != nil {
			return err
		}
		s.network = n
		s.undo.Add(func(context.Context) error { return n.CloseTaps() })
	}
	if record.Cgroup != "" {
		top, err := makeCgroup(ctx, record.Cgroup)
		if err != nil {
			return err
		}
		s.undo.Add(func(ctx context.Context) error { return removeCgroup(ctx, record.Cgroup, top) })
		record.MadeTop = top
		return s.keep(record)
	}
	return nil
}

// keep replaces the record, in memory and on disk.
func (s *Sandbox) keep(r Record) error {
	if err := r.write(s.o.StateDir); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = r
	return nil
}

// launch starts the VMM in its cgroup and enters it in the record.
func (s *Sandbox) launch(ctx context.Context) error {
	spec := s.o.Machine
	spec.ID, spec.NetNS = s.o.ID, s.o.NetNS
	if s.network != nil {
		spec.NICs = s.network.NICs
	}
	s.mu.Lock()
	record := s.record
	s.mu.Unlock()
	var err error
	if record.Cgroup != "" {
		if spec.Cgroup, err = cgroupDirs(record.Cgroup); err != nil {
			return err
		}
	}
	vm, err := s.o.Launcher.Launch(ctx, spec)
	if err != nil {
		return fmt.Errorf("launch the virtual machine: %w", err)
	}
	s.vm = vm
	s.undo.Add(vm.Stop)
	go s.watchMachine()

	record.VMM = vm.Process()
	if err := s.keep(record); err != nil {
		return err
	}
	if record.Cgroup != "" { // where it is already, unless the kernel is too old
		if err := joinCgroup(record.Cgroup, record.VMM.PID); err != nil {
			return err
		}
	}
	if s.network != nil {
		return s.network.CloseTaps()
	}
	return nil
}

// connect waits for the agent.
func (s *Sandbox) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.DialTimeout,
		fmt.Errorf("dial timeout of %v: %w", s.o.DialTimeout, context.DeadlineExceeded))
	defer cancel()
	var options []agentclient.Option
	if s.o.CreateTimeout > 0 {
		options = append(options, agentclient.WithCreateTimeout(s.o.CreateTimeout))
	}
	agent, err := agentclient.Connect(ctx, s.dialAgent, options...)
	if err != nil {
		return s.withConsole(err)
	}
	s.agent = agent
	s.undo.Add(func(context.Context) error { return agent.Close() })
	s.undo.Add(s.destroyGuest)
	s.volumes = volumes.New(s.life, volumes.ByAgent(agent), volumes.DefaultLimits)
	s.undo.Add(func(context.Context) error { return s.volumes.Close() })
	return nil
}

// prepareGuest makes the guest ready for containers. The policy comes first: it
// decides whether anything else is allowed.
func (s *Sandbox) prepareGuest(ctx context.Context) error {
	if s.o.Policy != "" {
		if err := s.agent.SetPolicy(ctx, &agentpb.SetPolicyRequest{Policy: s.o.Policy}); err != nil {
			return fmt.Errorf("set the policy: %w", err)
		}
	}
	if s.network != nil {
		if err := configureNetwork(ctx, s.agent, s.network); err != nil {
			return err
		}
	}
	if err := s.agent.CreateSandbox(ctx, s.o.Request); err != nil {
		return fmt.Errorf("prepare the guest: %w", err)
	}
	details, err := s.agent.GetGuestDetails(ctx, &agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	if err != nil {
		return fmt.Errorf("ask the guest about itself: %w", err)
	}
	version := details.GetAgentDetails().GetVersion()
	s.position, s.rootBus = positionFor(version)
	s.microseconds = isOld(version)
	log.G(ctx).WithField("agent", version).Debug("agent is ready")
	return nil
}

// positionFor chooses how a disk's place is told to an agent of the given
// version, and whether it finds disks on the root bus only: those before 4 read a
// PCI address, later ones a PCI path.
func positionFor(version string) (position func(hypervisor.BDF) (string, error), rootBus bool) {
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n >= 4 {
		return hypervisor.BDF.PCIPath, true
	}
	return func(b hypervisor.BDF) (string, error) {
		if b == (hypervisor.BDF{}) {
			return "", fmt.Errorf("the VMM gave no PCI position: %w", errdefs.ErrInternal)
		}
		return b.String(), nil
	}, false
}

// isOld reports whether an agent is one of those before 4, as it says itself.
func isOld(version string) bool {
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return err == nil && n < 4
}

// withConsole adds to an error what was kept of the guest's console.
func (s *Sandbox) withConsole(err error) error {
	text := strings.TrimRight(s.vm.Console(), "\r\n")
	if text == "" {
		return fmt.Errorf("%w; the guest's console is empty", err)
	}
	return fmt.Errorf("%w; the guest's console ends with:\n%s", err, text)
}
