package shim

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/protobuf"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kata-cc/kata-cc/sandbox"
)

// The types of JSON that containerd sends in an Any.
const (
	processType   = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// decode reads the JSON of an Any that must have the given type.
func decode(content *anypb.Any, kind string, into any) error {
	if content.GetTypeUrl() != kind {
		return fmt.Errorf("type %q, want %q: %w", content.GetTypeUrl(), kind, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(content.GetValue(), into); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Exec implements the API: it enters a process that Start then runs.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	ctx = withTask(ctx, r.ID, r.ExecID)
	if r.ExecID == "" {
		return nil, fmt.Errorf("exec in container %s: no exec id: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	var spec specs.Process
	if err := decode(r.Spec, processType, &spec); err != nil {
		return nil, fmt.Errorf("exec %s in container %s: %w", r.ExecID, r.ID, err)
	}
	spec.Terminal = r.Terminal
	stdio := stdioPaths{stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, terminal: r.Terminal}
	if _, err := parseStdio(stdio); err != nil {
		return nil, err
	}
	if _, err := t.container.Exec(r.ExecID, &spec, s.opener(ctx, stdio, r.ID)); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.execs[r.ExecID] = stdio
	t.mu.Unlock()
	s.events.send(&events.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}

// Delete implements the API: it removes what has ended.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	ctx = withTask(ctx, r.ID, r.ExecID)
	t, err := s.find(r.ID)
	if err != nil {
		if answer, ok := s.tombstone(r); ok {
			return answer, nil
		}
		return nil, err
	}
	if r.ExecID != "" {
		return s.deleteExec(t, r.ExecID)
	}
	exit, err := t.container.Delete(ctx)
	if err != nil {
		return nil, err
	}
	answer := s.deleted(exit)
	s.mu.Lock()
	first := s.tasks[r.ID] == t // not one of two that asked at once
	if first {
		delete(s.tasks, r.ID)
		s.gone.add(r.ID, answer)
	}
	s.mu.Unlock()
	if !first {
		return answer, nil
	}
	s.events.send(&events.TaskDelete{ContainerID: r.ID, Pid: answer.Pid, ExitStatus: answer.ExitStatus, ExitedAt: answer.ExitedAt})
	return answer, nil
}

func (s *Service) deleteExec(t *task, exec string) (*taskapi.DeleteResponse, error) {
	exit, err := t.container.DeleteExec(exec)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	delete(t.execs, exec)
	t.mu.Unlock()
	return s.deleted(exit), nil
}

func (s *Service) deleted(exit sandbox.Exit) *taskapi.DeleteResponse {
	return &taskapi.DeleteResponse{Pid: s.pid(), ExitStatus: exit.Status, ExitedAt: timestamp(exit)}
}

// timestamp leaves the time of what never ended unset.
func timestamp(exit sandbox.Exit) *timestamppb.Timestamp {
	if exit.At.IsZero() {
		return nil
	}
	return protobuf.ToTimestamp(exit.At)
}

// maxTombstones is how many deleted containers are remembered.
const maxTombstones = 64

// tombstones remember the answers to the latest Deletes, for a caller who did
// not get the answer and asks again.
type tombstones struct {
	ids     []string
	answers map[string]*taskapi.DeleteResponse
}

func (g *tombstones) add(id string, answer *taskapi.DeleteResponse) {
	g.forget(id)
	if len(g.ids) == maxTombstones {
		g.forget(g.ids[0])
	}
	if g.answers == nil {
		g.answers = map[string]*taskapi.DeleteResponse{}
	}
	g.ids = append(g.ids, id)
	g.answers[id] = answer
}

func (g *tombstones) forget(id string) {
	if _, ok := g.answers[id]; !ok {
		return
	}
	delete(g.answers, id)
	for i := range g.ids {
		if g.ids[i] == id {
			g.ids = append(g.ids[:i:i], g.ids[i+1:]...)
			return
		}
	}
}

func (s *Service) tombstone(r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, bool) {
	if r.ExecID != "" {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, ok := s.gone.answers[r.ID]
	return answer, ok
}

// Pause implements the API.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	ctx = withTask(ctx, r.ID, "")
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if err := t.container.Pause(ctx); err != nil {
		return nil, err
	}
	s.events.send(&events.TaskPaused{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

// Resume implements the API.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	ctx = withTask(ctx, r.ID, "")
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if err := t.container.Resume(ctx); err != nil {
		return nil, err
	}
	s.events.send(&events.TaskResumed{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

// Checkpoint implements the API by refusing: the state of a machine is not to
// leave it.
func (s *Service) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint container %s: %w", r.ID, errdefs.ErrNotImplemented)
}

// Update implements the API.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	ctx = withTask(ctx, r.ID, "")
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if err := decode(r.Resources, resourcesType, &resources); err != nil {
		return nil, fmt.Errorf("update container %s: %w", r.ID, err)
	}
	return &emptypb.Empty{}, t.container.Update(ctx, &resources)
}

// Stats implements the API.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	ctx = withTask(ctx, r.ID, "")
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	counters, err := t.container.Stats(ctx)
	if err != nil {
		return nil, err
	}
	metrics, err := protobuf.MarshalAnyToProto(metricsOf(counters))
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: metrics}, nil
}
