package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/network"
)

// Hooks are programs of the host that a specification names. They see the pod's
// network namespace, which is how some callers bring the pod into a network.
type Hooks struct {
	// Create runs before the machine is launched, in this order; an error ends
	// the creation. Start runs when the sandbox's own container has started, Stop
	// when the machine has ended; their errors are logged.
	Create, Start, Stop []specs.Hook
	// Bundle and Annotations are what the hooks are told of the container.
	Bundle      string
	Annotations map[string]string
}

// NewHooks takes the hooks of a specification.
func NewHooks(spec *specs.Spec, bundle string) Hooks {
	h := Hooks{Bundle: bundle, Annotations: spec.Annotations}
	if spec.Hooks != nil {
		//lint:ignore SA1019 it is deprecated, and nerdctl of old and others use it
		h.Create = append(h.Create, spec.Hooks.Prestart...)
		h.Create = append(h.Create, spec.Hooks.CreateRuntime...)
		h.Start, h.Stop = spec.Hooks.Poststart, spec.Hooks.Poststop
	}
	return h
}

// runHooks runs hooks one after another until one fails.
func (s *Sandbox) runHooks(ctx context.Context, hooks []specs.Hook, status specs.ContainerState) error {
	for _, h := range hooks {
		if err := network.In(s.o.NetNS, func() error { return s.runHook(ctx, h, status) }); err != nil {
			return fmt.Errorf("hook %s: %w", h.Path, err)
		}
	}
	return nil
}

// runHook runs one. The process that it is told of is the thread which waits for
// it: that has the pod's network namespace, and there need be no VMM.
func (s *Sandbox) runHook(ctx context.Context, h specs.Hook, status specs.ContainerState) error {
	if !filepath.IsAbs(h.Path) {
		return fmt.Errorf("the path is not absolute: %w", errdefs.ErrInvalidArgument)
	}
	state, err := json.Marshal(specs.State{
		Version: specs.Version, ID: s.o.ID, Status: status, Pid: unix.Gettid(),
		Bundle: s.o.Hooks.Bundle, Annotations: s.hookAnnotations(),
	})
	if err != nil {
		return err
	}
	limit := hookTimeout
	if h.Timeout != nil && *h.Timeout > 0 {
		limit = time.Duration(*h.Timeout) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // never the shim's
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), &output, &output
	cmd.WaitDelay = hookGrace
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s: %w", errors.Join(err, context.Cause(ctx)), bytes.TrimSpace(output.Bytes()), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// hookAnnotations are the container's, with the namespace by its path.
func (s *Sandbox) hookAnnotations() map[string]string {
	annotations := map[string]string{"nerdctl/network-namespace": s.o.NetNS}
	for key, value := range s.o.Hooks.Annotations {
		annotations[key] = value
	}
	return annotations
}

// prepareNetNS makes the network namespace if it is the sandbox's own, and lets
// the hooks work on it.
func (s *Sandbox) prepareNetNS(ctx context.Context) error {
	if s.o.OwnNetNS {
		s.undo.Add(func(context.Context) error { return network.Delete(s.o.NetNS) })
		// One of the same name is what a sandbox of the same id has left.
		if err := network.Delete(s.o.NetNS); err != nil {
			return err
		}
		if _, err := network.Create(s.o.ID); err != nil {
			return err
		}
	}
	if len(s.o.Hooks.Stop) > 0 {
		s.undo.Add(func(ctx context.Context) error {
			if err := s.runHooks(ctx, s.o.Hooks.Stop, specs.StateStopped); err != nil {
				log.G(ctx).WithError(err).Warn("hook after the end failed")
			}
			return nil
		})
	}
	return s.runHooks(ctx, s.o.Hooks.Create, specs.StateCreating)
}

// AfterStart runs the hooks that wait for the start of the container.
func (c *Container) AfterStart(ctx context.Context) {
	s := c.sandbox
	if c.id != s.o.ID || len(s.o.Hooks.Start) == 0 {
		return
	}
	if err := s.runHooks(ctx, s.o.Hooks.Start, specs.StateRunning); err != nil {
		log.G(ctx).WithError(err).Warn("hook after the start failed")
	}
}

// OwnNetNS is the path of the network namespace that a sandbox makes for itself.
func OwnNetNS(id string) string { return network.Path(id) }
