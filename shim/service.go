// Package shim serves containerd's task and sandbox APIs for one sandbox: requests in, events
// and status codes out. What is done, and in which order, is sandbox's business;
// this package knows bundles, streams on the host, and the words of the API.
//
// All events leave through one queue in the order in which they happened, and
// are sent again until containerd has taken them.
package shim

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/resident"
	"github.com/kata-cc/kata-cc/sandbox"
	"github.com/kata-cc/kata-cc/shim/sandboxpb"
)

// NewLauncher makes the launcher of machines that a configuration asks for.
type NewLauncher func(*configuration.Config) (hypervisor.Launcher, error)

// Options says what a Service works with.
type Options struct {
	// NewLauncher makes machines.
	NewLauncher NewLauncher
	// StateDir is where the sandbox's record is kept; empty: sandbox's default.
	StateDir string
	// EventsAddress is containerd's ttrpc socket; empty: events are dropped.
	EventsAddress string
	// Exit ends the server. It is called once, after the last reply.
	Exit func()
}

// Service is containerd's task service. It is safe for concurrent use, and no
// lock is held while anything is done outside of it.
type Service struct {
	o      Options
	events *queue
	memory resident.Releaser

	mu      sync.Mutex
	sandbox *sandbox.Sandbox // nil before the first Create and after a failed one
	config  *configuration.Config
	tasks   map[string]*task
	gone    tombstones
	pod     *pod         // nil unless the sandbox was made by the sandbox API
	monitor *http.Server // nil: no volume can be asked about
	exiting bool
}

var _ taskapi.TaskService = (*Service)(nil)

// New makes a service. ctx carries namespace and logger.
func New(ctx context.Context, o Options) (*Service, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	return &Service{o: o, tasks: map[string]*task{}, events: newQueue(ctx, ns, o.EventsAddress)}, nil
}

// RegisterTTRPC implements what containerd's shim library expects of a service.
func (s *Service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTaskService(server, s)
	sandboxpb.RegisterSandboxService(server, sandboxAPI{s})
	return nil
}

// UnaryInterceptor gives every error of every request its code.
func (s *Service) UnaryInterceptor() ttrpc.UnaryServerInterceptor { return toStatus }

// withTask puts the words into the context by which the log is searched.
func withTask(ctx context.Context, id, exec string) context.Context {
	fields := log.Fields{"container": id}
	if exec != "" {
		fields["exec"] = exec
	}
	return log.WithLogger(ctx, log.G(ctx).WithFields(fields))
}

// find returns a task whose container was created.
func (s *Service) find(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[id]
	if !ok || t.container == nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return t, nil
}

// process returns the process that a request is about; exec is empty for the
// init process.
func (s *Service) process(id, exec string) (*task, *sandbox.Process, error) {
	t, err := s.find(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := t.container.Process(exec)
	return t, p, err
}

// pid is what containerd is told for every process: the VMM's.
func (s *Service) pid() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil {
		return 0
	}
	return uint32(s.sandbox.PID())
}

// Start implements the API: it runs an init process or an exec.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	ctx = withTask(ctx, r.ID, r.ExecID)
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		t.container.AfterStart(ctx)
		s.settle(ctx)
	}
	return &taskapi.StartResponse{Pid: s.pid()}, nil
}

// settle gives back what a start needed of memory, when no more of them follow.
func (s *Service) settle(ctx context.Context) {
	s.memory.Soon(func(err error) { log.G(ctx).WithError(err).Debug("memory is kept") })
}

// Kill implements the API.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	ctx = withTask(ctx, r.ID, r.ExecID)
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, p.Kill(ctx, r.Signal, r.All)
}

// Wait implements the API: it blocks until a process has ended.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: exit.Status, ExitedAt: protobuf.ToTimestamp(exit.At)}, nil
}

// ResizePty implements the API.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	ctx = withTask(ctx, r.ID, r.ExecID)
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, p.Resize(ctx, r.Width, r.Height)
}

// CloseIO implements the API. It does not wait for what is still in the pipe.
func (s *Service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Stdin {
		p.CloseStdin()
	}
	return &emptypb.Empty{}, nil
}

// Shutdown implements the API. It does nothing while there are containers: each
// container of a pod is shut down by itself, and only the last ends the shim. A
// sandbox of the sandbox API outlives its containers.
func (s *Service) Shutdown(ctx context.Context, _ *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	if len(s.tasks) > 0 || s.exiting || s.pod != nil {
		s.mu.Unlock()
		return &emptypb.Empty{}, nil
	}
	s.exiting = true
	s.mu.Unlock()
	s.shutdown(ctx)
	return &emptypb.Empty{}, nil
}

// shutdown stops the sandbox and ends the shim a little later. Its caller has set
// exiting.
func (s *Service) shutdown(ctx context.Context) {
	if err := s.stopSandbox(ctx); err != nil {
		log.G(ctx).WithError(err).Error("sandbox was not stopped; what is left is for delete to remove")
	}
	removeSocket(ctx) // now, so that a shim of the same id may start as soon as this is answered
	time.AfterFunc(replyDelay, s.o.Exit)
}

func (s *Service) stopSandbox(ctx context.Context) error {
	s.closeMonitor()
	s.mu.Lock()
	sb := s.sandbox
	s.mu.Unlock()
	if sb == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	return sb.Stop(ctx)
}

// Close ends the service in order: the sandbox, then the events it leaves. It is
// the one callback of the server's shutdown.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.exiting = true
	s.mu.Unlock()
	err := s.stopSandbox(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Error("sandbox was not stopped; what is left is for delete to remove")
	}
	s.events.close(ctx)
	removeSocket(ctx)
	return err
}

// removeSocket removes the socket the shim is reached at, whose address start
// wrote into the bundle.
func removeSocket(ctx context.Context) {
	address, err := os.ReadFile("address")
	if err != nil {
		return // started by hand: there is none
	}
	path, ok := socketPath(string(address))
	if !ok {
		return
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		log.G(ctx).WithError(err).Warn("socket is left")
	}
}

// socketPath gives the path of a "unix://" address.
func socketPath(address string) (string, bool) {
	const scheme = "unix://"
	if len(address) <= len(scheme) || address[:len(scheme)] != scheme || !filepath.IsAbs(address[len(scheme):]) {
		return "", false
	}
	return address[len(scheme):], true
}
