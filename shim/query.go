package shim

import (
	"context"
	"os"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/protobuf"

	"github.com/kata-cc/kata-cc/sandbox"
)

// State implements the API.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	stdio := t.stdioOf(r.ExecID)
	response := &taskapi.StateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: t.bundle, Pid: s.pid(), Status: statusOf(t.container, p),
		Stdin: stdio.stdin, Stdout: stdio.stdout, Stderr: stdio.stderr, Terminal: stdio.terminal,
	}
	if response.Status == tasktypes.Status_STOPPED {
		exit := p.Exit()
		response.ExitStatus, response.ExitedAt = exit.Status, protobuf.ToTimestamp(exit.At)
	}
	return response, nil
}

func statusOf(c *sandbox.Container, p *sandbox.Process) tasktypes.Status {
	switch p.Status() {
	case sandbox.CreatedProcess:
		return tasktypes.Status_CREATED
	case sandbox.StoppedProcess:
		return tasktypes.Status_STOPPED
	}
	if c.Paused() {
		return tasktypes.Status_PAUSED
	}
	return tasktypes.Status_RUNNING
}

// Pids implements the API. The processes of the guest have no pid on this host:
// the answer is the VMM's for each container, never none, by which containerd
// would take the container for lost.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	if _, err := s.find(r.ID); err != nil {
		return nil, err
	}
	return &taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: s.pid()}}}, nil
}

// Connect implements the API. It answers for any container.
func (s *Service) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: s.pid()}, nil
}
