package shim

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/containerd/containerd/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
	"github.com/kata-cc/kata-cc/shim/sandboxpb"
)

// sandboxAPI is containerd's sandbox service. A caller who uses it makes the
// sandbox by itself, without a pause container, and ends the shim by itself;
// the containers come by the task service, as they do without it.
type sandboxAPI struct{ s *Service }

var _ sandboxpb.SandboxService = sandboxAPI{}

// pod is what the sandbox service knows of a sandbox beyond what the sandbox
// does. It is there once CreateSandbox has succeeded.
type pod struct {
	sandbox *sandbox.Sandbox
	files   podFiles
	sysctls map[string]string // of the namespaces that its containers share

	// Guarded by the service's lock.
	createdAt, exitedAt time.Time // zero: not yet
}

// podOf returns the sandbox that was created by its id.
func (s *Service) podOf(id string) (*pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod == nil || s.pod.sandbox.ID() != id {
		return nil, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return s.pod, nil
}

func withSandbox(ctx context.Context, id string) context.Context {
	return log.WithLogger(ctx, log.G(ctx).WithField("sandbox", id))
}

// CreateSandbox implements the API. Nothing is done outside of the bundle.
func (a sandboxAPI) CreateSandbox(ctx context.Context, r *sandboxpb.CreateSandboxRequest) (*sandboxpb.CreateSandboxResponse, error) {
	ctx = withSandbox(ctx, r.SandboxId)
	if err := checkID(r.SandboxId); err != nil {
		return nil, err
	}
	config, err := a.s.configure(ctx, nil) // start has passed on what the runtime's options name
	if err != nil {
		return nil, err
	}
	request, err := podConfig(r.Options)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", r.SandboxId, err)
	}
	if id := a.s.sandboxID(); id != "" { // before its files are touched
		return nil, fmt.Errorf("create sandbox %s: this is the shim of sandbox %s: %w", r.SandboxId, id, errdefs.ErrAlreadyExists)
	}
	files, err := writePodFiles(r.BundlePath, request)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", r.SandboxId, err)
	}
	spec := podSpec(r, request, files)
	sb, err := a.s.newSandbox(ctx, spec, config, mounts.Options{
		SandboxID: r.SandboxId, ContainerID: r.SandboxId, Bundle: r.BundlePath, Type: mounts.PodSandbox,
		NetNS: r.NetnsPath, KernelModules: config.Agent.KernelModules,
	})
	if err != nil {
		return nil, err
	}
	a.s.mu.Lock()
	a.s.pod = &pod{sandbox: sb, files: files, sysctls: request.GetLinux().GetSysctls()}
	a.s.mu.Unlock()
	return &sandboxpb.CreateSandboxResponse{}, nil
}

// sandboxID is the id of the shim's sandbox; empty if there is none yet.
func (s *Service) sandboxID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil {
		return ""
	}
	return s.sandbox.ID()
}

// StartSandbox implements the API: it boots the machine. If it fails, nothing of
// the machine is left.
func (a sandboxAPI) StartSandbox(ctx context.Context, r *sandboxpb.StartSandboxRequest) (*sandboxpb.StartSandboxResponse, error) {
	ctx = withSandbox(ctx, r.SandboxId)
	p, err := a.s.podOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	if err := p.sandbox.Start(ctx); err != nil {
		log.G(ctx).WithError(err).Error("sandbox was not started")
		return nil, err
	}
	now := time.Now()
	a.s.mu.Lock()
	p.createdAt = now
	a.s.mu.Unlock()
	go a.s.watchPod(p)
	a.s.settle(ctx)
	return &sandboxpb.StartSandboxResponse{Pid: a.s.pid(), CreatedAt: timestamppb.New(now)}, nil
}

// watchPod notes when a sandbox ended. It is the one goroutine of a sandbox that
// was started by the API.
func (s *Service) watchPod(p *pod) {
	<-p.sandbox.Ended()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	p.exitedAt = now
}

// statusLost is the exit status of a sandbox whose machine was lost.
const statusLost = 255

// podStatus is the exit status of a sandbox that has ended.
func podStatus(sb *sandbox.Sandbox) uint32 {
	if sb.Lost() {
		return statusLost
	}
	return 0
}

// Platform implements the API.
func (a sandboxAPI) Platform(context.Context, *sandboxpb.PlatformRequest) (*sandboxpb.PlatformResponse, error) {
	return &sandboxpb.PlatformResponse{Platform: &sandboxpb.Platform{Os: "linux", Architecture: runtime.GOARCH}}, nil
}

// StopSandbox implements the API: the machine goes, with every container in it.
// It may be repeated.
func (a sandboxAPI) StopSandbox(ctx context.Context, r *sandboxpb.StopSandboxRequest) (*sandboxpb.StopSandboxResponse, error) {
	ctx = withSandbox(ctx, r.SandboxId)
	p, err := a.s.podOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	limit := shutdownTimeout
	if r.TimeoutSecs > 0 {
		limit = time.Duration(r.TimeoutSecs) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return &sandboxpb.StopSandboxResponse{}, p.sandbox.Stop(ctx)
}

// WaitSandbox implements the API: it blocks until the sandbox has ended.
func (a sandboxAPI) WaitSandbox(ctx context.Context, r *sandboxpb.WaitSandboxRequest) (*sandboxpb.WaitSandboxResponse, error) {
	p, err := a.s.podOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.sandbox.Ended():
	}
	a.s.mu.Lock()
	at := p.exitedAt
	a.s.mu.Unlock()
	if at.IsZero() { // it never ran, or ended just now
		at = time.Now()
	}
	return &sandboxpb.WaitSandboxResponse{ExitStatus: podStatus(p.sandbox), ExitedAt: timestamppb.New(at)}, nil
}

// The states that containerd knows.
const (
	podReady    = "SANDBOX_READY"
	podNotReady = "SANDBOX_NOTREADY"
)

// SandboxStatus implements the API, from memory.
func (a sandboxAPI) SandboxStatus(_ context.Context, r *sandboxpb.SandboxStatusRequest) (*sandboxpb.SandboxStatusResponse, error) {
	p, err := a.s.podOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	state := podNotReady
	if p.sandbox.State() == sandbox.Running {
		state = podReady
	}
	answer := &sandboxpb.SandboxStatusResponse{SandboxId: r.SandboxId, Pid: a.s.pid(), State: state}
	if r.Verbose {
		answer.Info = map[string]string{"state": p.sandbox.State().String()}
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if !p.createdAt.IsZero() {
		answer.CreatedAt = timestamppb.New(p.createdAt)
	}
	if !p.exitedAt.IsZero() {
		answer.ExitedAt = timestamppb.New(p.exitedAt)
	}
	return answer, nil
}

// PingSandbox implements the API.
func (a sandboxAPI) PingSandbox(_ context.Context, r *sandboxpb.PingRequest) (*sandboxpb.PingResponse, error) {
	_, err := a.s.podOf(r.SandboxId)
	return &sandboxpb.PingResponse{}, err
}

// ShutdownSandbox implements the API: the sandbox is stopped, if that was not
// done, and the shim ends after its answer.
func (a sandboxAPI) ShutdownSandbox(ctx context.Context, r *sandboxpb.ShutdownSandboxRequest) (*sandboxpb.ShutdownSandboxResponse, error) {
	ctx = withSandbox(ctx, r.SandboxId)
	a.s.mu.Lock()
	exiting := a.s.exiting
	a.s.exiting = true
	a.s.mu.Unlock()
	if !exiting {
		a.s.shutdown(ctx)
	}
	return &sandboxpb.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics implements the API: what the VMM uses of the host.
func (a sandboxAPI) SandboxMetrics(_ context.Context, r *sandboxpb.SandboxMetricsRequest) (*sandboxpb.SandboxMetricsResponse, error) {
	if _, err := a.s.podOf(r.SandboxId); err != nil {
		return nil, err
	}
	metrics, err := processMetrics(int(a.s.pid()))
	if err != nil {
		return nil, fmt.Errorf("metrics of sandbox %s: %w", r.SandboxId, err)
	}
	data, err := protobuf.MarshalAnyToProto(metrics)
	if err != nil {
		return nil, err
	}
	return &sandboxpb.SandboxMetricsResponse{Metrics: &sandboxpb.Metric{
		Timestamp: timestamppb.Now(), Id: r.SandboxId, Data: data,
	}}, nil
}
