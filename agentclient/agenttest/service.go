package agenttest

import (
	"context"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// implemented are the requests that service answers; all others are unsupported.
var implemented = set(`CreateContainer StartContainer RemoveContainer ExecProcess SignalProcess WaitProcess
	UpdateContainer StatsContainer PauseContainer ResumeContainer WriteStdin ReadStdout ReadStderr CloseStdin TtyWinResize
	UpdateInterface UpdateRoutes AddARPNeighbors CreateSandbox DestroySandbox OnlineCPUMem GetGuestDetails
	CopyFile GetOOMEvent SetPolicy GetDiagnosticData ResizeVolume`)

func set(names string) map[string]bool {
	m := map[string]bool{}
	for _, n := range strings.Fields(names) {
		m[n] = true
	}
	return m
}

type health struct{ a *Agent }

func (h health) Check(context.Context, *agentpb.CheckRequest) (*agentpb.HealthCheckResponse, error) {
	return &agentpb.HealthCheckResponse{Status: agentpb.HealthCheckResponse_SERVING}, nil
}

func (h health) Version(context.Context, *agentpb.CheckRequest) (*agentpb.VersionCheckResponse, error) {
	return &agentpb.VersionCheckResponse{GrpcVersion: "0.0.1", AgentVersion: h.a.flavour.version()}, nil
}

// service answers the agent's requests. The interceptor keeps the ones that it
// does not implement from the nil interface below it.
type service struct {
	agentpb.AgentServiceService
	a *Agent
}

var empty = &emptypb.Empty{}

func refuse(code codes.Code, format string, args ...any) (*emptypb.Empty, error) {
	return nil, status.Errorf(code, format, args...)
}

func (s service) CreateSandbox(_ context.Context, r *agentpb.CreateSandboxRequest) (*emptypb.Empty, error) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.a.sandbox != nil {
		return refuse(codes.FailedPrecondition, "a sandbox exists already: %s", s.a.sandbox.GetSandboxId())
	}
	s.a.sandbox = r
	return empty, nil
}

// hangUpDelay is how long the agent outlives its sandbox, for the answer to leave.
const hangUpDelay = 20 * time.Millisecond

func (s service) DestroySandbox(context.Context, *agentpb.DestroySandboxRequest) (*emptypb.Empty, error) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.a.destroyed {
		return refuse(codes.Internal, "failed to get sandbox sender channel")
	}
	s.a.destroyed = true
	for _, c := range s.a.containers {
		c.kill()
	}
	close(s.a.gone)
	time.AfterFunc(hangUpDelay, s.a.wire.hangUp)
	return empty, nil
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]+$`)

func (s service) CreateContainer(_ context.Context, r *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	a, id := s.a, r.GetContainerId()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !idForm.MatchString(id):
		return refuse(codes.Internal, "invalid container ID %s", id)
	case a.sandbox == nil:
		return refuse(codes.Internal, "no sandbox")
	case a.containers[id] != nil:
		return refuse(codes.AlreadyExists, "container %s exists already", id)
	case len(r.GetOCI().GetProcess().GetArgs()) == 0:
		return refuse(codes.Internal, "EINVAL: no process")
	case r.GetOCI().GetRoot().GetPath() == "":
		return refuse(codes.Internal, "EINVAL: no root path")
	}
	for _, st := range r.GetStorages() {
		if st.GetDriver() == "blk" {
			if err := a.flavour.checkDisk(st.GetSource()); err != nil {
				return refuse(codes.Internal, "%v", err)
			}
		}
	}
	p := r.GetOCI().GetProcess()
	init := newProcess(a.flavour, a.scriptFor(p.GetArgs()), p.GetTerminal())
	a.containers[id] = &container{id: id, request: r, processes: map[string]*process{id: init}}
	return empty, nil
}

func (s service) StartContainer(ctx context.Context, r *agentpb.StartContainerRequest) (*emptypb.Empty, error) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	c := s.a.containers[r.GetContainerId()]
	if c == nil {
		return nil, s.a.flavour.noContainer(r.GetContainerId())
	}
	if c.started {
		return refuse(codes.FailedPrecondition, "container %s was started already", c.id)
	}
	c.started = true
	if p := c.process(""); p != nil {
		s.a.wire.tasks.Go(p.run)
	}
	return empty, nil
}

func (s service) RemoveContainer(_ context.Context, r *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	c := s.a.containers[r.GetContainerId()]
	if c == nil {
		return nil, s.a.flavour.noContainer(r.GetContainerId())
	}
	c.kill()
	delete(s.a.containers, c.id)
	return empty, nil
}

func (s service) UpdateContainer(_ context.Context, r *agentpb.UpdateContainerRequest) (*emptypb.Empty, error) {
	return s.known(r.GetContainerId())
}

func (s service) PauseContainer(_ context.Context, r *agentpb.PauseContainerRequest) (*emptypb.Empty, error) {
	return s.known(r.GetContainerId())
}

func (s service) ResumeContainer(_ context.Context, r *agentpb.ResumeContainerRequest) (*emptypb.Empty, error) {
	return s.known(r.GetContainerId())
}

func (s service) known(id string) (*emptypb.Empty, error) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.a.containers[id] == nil {
		return nil, s.a.flavour.noContainer(id)
	}
	return empty, nil
}

// StatsContainer answers numbers that can be told apart.
func (s service) StatsContainer(_ context.Context, r *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	if _, err := s.known(r.GetContainerId()); err != nil {
		return nil, err
	}
	return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{
		CpuStats: &agentpb.CpuStats{CpuUsage: &agentpb.CpuUsage{TotalUsage: 3e9, UsageInKernelmode: 1e9, UsageInUsermode: 2e9}},
		MemoryStats: &agentpb.MemoryStats{
			Usage: &agentpb.MemoryData{Usage: 8 << 20, Limit: 50 << 20},
			Stats: map[string]uint64{"inactive_file": 1 << 20, "anon": 2 << 20},
		},
		PidsStats: &agentpb.PidsStats{Current: 3, Limit: 100},
	}}, nil
}

func (s service) UpdateInterface(_ context.Context, r *agentpb.UpdateInterfaceRequest) (*agentpb.Interface, error) {
	if r.GetInterface() == nil {
		return nil, status.Error(codes.InvalidArgument, "empty update interface request")
	}
	return r.GetInterface(), nil
}

func (s service) UpdateRoutes(_ context.Context, r *agentpb.UpdateRoutesRequest) (*agentpb.Routes, error) {
	if r.GetRoutes() == nil {
		return nil, status.Error(codes.InvalidArgument, "empty update routes request")
	}
	return r.GetRoutes(), nil
}

func (s service) AddARPNeighbors(_ context.Context, r *agentpb.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	if r.GetNeighbors() == nil {
		return refuse(codes.InvalidArgument, "empty add arp neighbours request")
	}
	return empty, nil
}

func (s service) OnlineCPUMem(context.Context, *agentpb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	return empty, nil
}

func (s service) SetPolicy(context.Context, *agentpb.SetPolicyRequest) (*emptypb.Empty, error) {
	return empty, nil
}

func (s service) GetGuestDetails(context.Context, *agentpb.GuestDetailsRequest) (*agentpb.GuestDetailsResponse, error) {
	return &agentpb.GuestDetailsResponse{
		MemBlockSizeBytes: 128 << 20,
		AgentDetails:      &agentpb.AgentDetails{Version: s.a.flavour.version(), InitDaemon: true, SupportsSeccomp: true},
	}, nil
}

func (s service) GetOOMEvent(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	select {
	case id := <-s.a.oom:
		return &agentpb.OOMEvent{ContainerId: id}, nil
	case <-s.a.gone:
		return nil, status.Error(codes.Internal, `""`)
	case <-s.a.wire.done:
	case <-ctx.Done():
	}
	return nil, status.Error(codes.Canceled, "gone")
}

// GetDiagnosticData tells a container's last words; agents before 4.1 lack it.
func (s service) GetDiagnosticData(_ context.Context, r *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
	if s.a.flavour.isAzl() {
		return nil, s.a.flavour.unsupported("GetDiagnosticData")
	}
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	c := s.a.containers[r.GetContainerId()]
	if c == nil {
		return nil, s.a.flavour.noContainer(r.GetContainerId())
	}
	return &agentpb.GetDiagnosticDataResponse{Data: s.a.scriptFor(c.request.GetOCI().GetProcess().GetArgs()).LastWords}, nil
}

// ResizeVolume is known to our agent only.
func (s service) ResizeVolume(context.Context, *agentpb.ResizeVolumeRequest) (*emptypb.Empty, error) {
	if s.a.flavour != Ours {
		return nil, s.a.flavour.unsupported("ResizeVolume")
	}
	return empty, nil
}
