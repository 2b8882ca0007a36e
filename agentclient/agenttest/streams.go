package agenttest

import (
	"context"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

func (a *Agent) lookUp(id, exec string) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[id]
	if c == nil {
		return nil, a.flavour.noContainer(id)
	}
	if p := c.process(exec); p != nil {
		return p, nil
	}
	return nil, a.flavour.noProcess(exec)
}

func (s service) ExecProcess(_ context.Context, r *agentpb.ExecProcessRequest) (*emptypb.Empty, error) {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[r.GetContainerId()]
	switch {
	case c == nil:
		return nil, a.flavour.noContainer(r.GetContainerId())
	case len(r.GetProcess().GetArgs()) == 0:
		return refuse(codes.Internal, "Unable to parse process from ExecProcessRequest")
	case c.process(r.GetExecId()) != nil:
		return refuse(codes.Internal, "exec_id '%s' already exists", r.GetExecId())
	}
	script := a.scriptFor(r.GetProcess().GetArgs())
	if script.Missing {
		return refuse(codes.Internal, "%s", chain("the file "+r.GetProcess().GetArgs()[0]+" was not found"))
	}
	p := newProcess(a.flavour, script, r.GetProcess().GetTerminal())
	c.processes[r.GetExecId()] = p
	a.wire.tasks.Go(p.run)
	return empty, nil
}

// SignalProcess with an empty exec id reaches all processes of the container,
// with upstream's agent only for SIGKILL.
func (s service) SignalProcess(_ context.Context, r *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[r.GetContainerId()]
	if c == nil {
		return nil, a.flavour.noContainer(r.GetContainerId())
	}
	all := r.GetExecId() == "" && (a.flavour != Upstream || r.GetSignal() == uint32(unix.SIGKILL))
	if !all {
		p := c.process(r.GetExecId())
		if p == nil {
			return nil, a.flavour.noProcess(r.GetExecId())
		}
		p.signal(r.GetSignal())
		return empty, nil
	}
	for _, p := range c.processes {
		p.signal(r.GetSignal())
	}
	return empty, nil
}

// WaitProcess collects the process: what it wrote and nobody read is lost.
func (s service) WaitProcess(ctx context.Context, r *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	p, err := s.a.lookUp(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
	case <-s.a.wire.done:
		return nil, status.Error(codes.Unavailable, "gone")
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if c := s.a.containers[r.GetContainerId()]; c != nil {
		exec := r.GetExecId()
		if exec == "" {
			exec = c.id
		}
		delete(c.processes, exec)
	}
	p.stdout.close()
	p.stderr.close()
	return &agentpb.WaitProcessResponse{Status: p.status}, nil
}

func (s service) ReadStdout(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, r, func(p *process) *pipe { return p.stdout })
}

func (s service) ReadStderr(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, r, func(p *process) *pipe {
		if p.terminal {
			return p.stdout
		}
		return p.stderr
	})
}

func (s service) read(ctx context.Context, r *agentpb.ReadStreamRequest, which func(*process) *pipe) (*agentpb.ReadStreamResponse, error) {
	s.a.mu.Lock()
	deny := s.a.denyRead
	s.a.mu.Unlock()
	if deny && s.a.flavour == Azl1 {
		return nil, status.Error(codes.PermissionDenied, "\"ReadStreamRequest is blocked by policy: \"")
	}
	p, err := s.a.lookUp(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	data, end := which(p).read(ctx, int(r.GetLen()))
	switch {
	case end == atEnd:
		return s.a.flavour.endOfStream()
	case end == woken:
		return s.a.flavour.interrupted()
	case end == gaveUp:
		return nil, status.FromContextError(ctx.Err()).Err()
	case deny:
		return &agentpb.ReadStreamResponse{}, nil
	}
	return &agentpb.ReadStreamResponse{Data: data}, nil
}

func (s service) WriteStdin(_ context.Context, r *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	p, err := s.a.lookUp(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	if len(r.GetData()) == 0 && s.a.flavour == Upstream {
		p.stdin.close()
		return &agentpb.WriteStreamResponse{}, nil
	}
	n, ok := p.stdin.write(r.GetData())
	if !ok {
		return nil, status.Error(codes.Internal, chain("Cannot get writer"))
	}
	return &agentpb.WriteStreamResponse{Len: uint32(n)}, nil
}

// CloseStdin of the azl line wakes reads that are pending, though the output has
// not ended.
func (s service) CloseStdin(_ context.Context, r *agentpb.CloseStdinRequest) (*emptypb.Empty, error) {
	p, err := s.a.lookUp(r.GetContainerId(), r.GetExecId())
	if err != nil && s.a.flavour.isAzl() {
		return refuse(codes.InvalidArgument, "invalid argument: %s", status.Convert(err).Message())
	}
	if err != nil {
		return nil, err
	}
	if s.a.flavour.isAzl() {
		p.stdout.interrupt()
		p.stderr.interrupt()
	}
	p.stdin.close()
	return empty, nil
}

func (s service) TtyWinResize(_ context.Context, r *agentpb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	p, err := s.a.lookUp(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	if !p.terminal {
		return refuse(codes.Unavailable, "no tty")
	}
	return empty, nil
}

// copyRoot is where CopyFile may write.
const copyRoot = "/run/kata-containers"

// CopyFile completes a file when it has its whole size.
func (s service) CopyFile(_ context.Context, r *agentpb.CopyFileRequest) (*emptypb.Empty, error) {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.sandbox == nil:
		return refuse(codes.Internal, "no sandbox")
	case path.Clean(r.GetPath()) != r.GetPath() || !strings.HasPrefix(r.GetPath(), copyRoot+"/"):
		return refuse(codes.Internal, "Path %s does not start with %s", r.GetPath(), copyRoot)
	}
	f := File{Mode: r.GetFileMode(), UID: r.GetUid(), GID: r.GetGid(), Data: r.GetData()}
	if r.GetFileMode()&unix.S_IFMT != unix.S_IFREG {
		a.files[r.GetPath()] = f
		return empty, nil
	}
	if err := a.chunk(r, &f); err != nil {
		return refuse(codes.Internal, "%v", err)
	}
	return empty, nil
}

func (a *Agent) chunk(r *agentpb.CopyFileRequest, f *File) error {
	data := a.partial[r.GetPath()]
	if r.GetOffset() != int64(len(data)) {
		return fmt.Errorf("chunk of %s at %d, want %d", r.GetPath(), r.GetOffset(), len(data))
	}
	data = append(data, r.GetData()...)
	a.partial[r.GetPath()] = data
	if int64(len(data)) == r.GetFileSize() {
		delete(a.partial, r.GetPath())
		f.Data = data
		a.files[r.GetPath()] = *f
	}
	return nil
}
