package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/ocispec"
	"github.com/kata-cc/kata-cc/guest/process"
	"github.com/kata-cc/kata-cc/guest/sandbox"
)

// RemoveContainer kills what runs in a container and takes it away. A timeout
// of 0 seconds waits as long as the caller does. What was copied for a container
// that could not be made goes too.
func (s *Service) RemoveContainer(ctx context.Context, r *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	if t := r.GetTimeout(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(t)*time.Second, errors.Join(unix.ETIME, context.DeadlineExceeded))
		defer cancel()
	}
	id := r.GetContainerId()
	err := s.sandbox.RemoveContainer(ctx, id)
	if err == nil || errdefs.IsInvalidArgument(err) && sandbox.CheckID(id) == nil {
		err = errors.Join(err, s.files.RemoveCopies(id))
	}
	if err != nil {
		return nil, err
	}
	return empty, nil
}

// ExecProcess starts another process in a container.
func (s *Service) ExecProcess(ctx context.Context, r *agentpb.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.sandbox.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := refuseFields(r); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", r.GetContainerId(), err)
	}
	return empty, creation(c.Exec(ctx, r.GetExecId(), ocispec.NewProcess(r.GetProcess())))
}

// SignalProcess sends a signal to a process, or without an exec id to every
// process of the container.
func (s *Service) SignalProcess(_ context.Context, r *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	c, err := s.sandbox.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	sig := unix.Signal(r.GetSignal())
	if r.GetExecId() != "" {
		return empty, c.Signal(r.GetExecId(), sig)
	}
	return empty, errors.Join(c.Signal("", sig), c.SignalAll(sig))
}

// WaitProcess waits for the exit of a process and returns its status, 128+n for
// a death by signal n. The process is forgotten then.
func (s *Service) WaitProcess(ctx context.Context, r *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	c, err := s.sandbox.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	status, err := c.Wait(ctx, r.GetExecId())
	if err != nil {
		return nil, err
	}
	return &agentpb.WaitProcessResponse{Status: int32(status)}, nil
}

func (s *Service) process(container, exec string) (*process.Process, error) {
	c, err := s.sandbox.Container(container)
	if err != nil {
		return nil, err
	}
	return c.Process(exec)
}

// ReadStdout waits for output; no bytes and no error are the end of it.
func (s *Service) ReadStdout(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, r, (*process.Process).Stdout)
}

// ReadStderr is as ReadStdout; with a terminal it reads that.
func (s *Service) ReadStderr(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, r, (*process.Process).Stderr)
}

func (s *Service) read(ctx context.Context, r *agentpb.ReadStreamRequest, stream func(*process.Process) (*process.Output, error)) (*agentpb.ReadStreamResponse, error) {
	p, err := s.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	out, err := stream(p)
	if err != nil {
		return nil, internal(err)
	}
	data, err := out.Read(ctx, int(min(r.GetLen(), process.MaxRead)))
	if err != nil {
		return nil, err
	}
	return &agentpb.ReadStreamResponse{Data: data}, nil
}

// WriteStdin writes all of the data, waiting while the process does not read;
// no data closes the stream.
func (s *Service) WriteStdin(ctx context.Context, r *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	p, err := s.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	in, err := p.Stdin()
	if err != nil {
		return nil, internal(err)
	}
	if len(r.GetData()) == 0 {
		return &agentpb.WriteStreamResponse{}, in.Close()
	}
	n, err := in.Write(ctx, r.GetData())
	if err != nil {
		return nil, internal(err)
	}
	return &agentpb.WriteStreamResponse{Len: uint32(n)}, nil
}

// CloseStdin says that no more input comes.
func (s *Service) CloseStdin(_ context.Context, r *agentpb.CloseStdinRequest) (*emptypb.Empty, error) {
	p, err := s.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	in, err := p.Stdin()
	if err != nil {
		return nil, internal(err)
	}
	return empty, in.Close()
}

// TtyWinResize sets the size of a process's terminal.
func (s *Service) TtyWinResize(_ context.Context, r *agentpb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	p, err := s.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	const most = 1<<16 - 1
	if r.GetRow() > most || r.GetColumn() > most {
		return nil, fmt.Errorf("terminal of %d rows and %d columns: %w", r.GetRow(), r.GetColumn(), errdefs.ErrInvalidArgument)
	}
	return empty, p.Resize(uint16(r.GetRow()), uint16(r.GetColumn()))
}

// PauseContainer stops the processes of a container.
func (s *Service) PauseContainer(ctx context.Context, r *agentpb.PauseContainerRequest) (*emptypb.Empty, error) {
	c, err := s.sandbox.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return empty, c.Pause(ctx)
}

// ResumeContainer lets them go on.
func (s *Service) ResumeContainer(ctx context.Context, r *agentpb.ResumeContainerRequest) (*emptypb.Empty, error) {
	c, err := s.sandbox.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return empty, c.Resume(ctx)
}

// UpdateContainer changes the limits of a container; without any it does nothing.
func (s *Service) UpdateContainer(ctx context.Context, r *agentpb.UpdateContainerRequest) (*emptypb.Empty, error) {
	c, err := s.sandbox.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if r.GetResources() == nil {
		return empty, nil
	}
	return empty, c.Update(ctx, ocispec.NewResources(r.GetResources()))
}

// StatsContainer reads the counters of a container's cgroup. The network is the
// pod's and not told here.
func (s *Service) StatsContainer(_ context.Context, r *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	c, err := s.sandbox.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, err := c.Stats()
	if err != nil {
		return nil, err
	}
	return &agentpb.StatsContainerResponse{CgroupStats: stats}, nil
}

// GetDiagnosticData reads what a container has left in its termination log.
func (s *Service) GetDiagnosticData(_ context.Context, r *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
	if kind := r.GetLogType(); kind != "termination_log" {
		return nil, fmt.Errorf("diagnostic data %q: only termination_log is kept: %w", kind, errdefs.ErrInvalidArgument)
	}
	text, err := s.sandbox.TerminationLog(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &agentpb.GetDiagnosticDataResponse{Data: text}, nil
}
