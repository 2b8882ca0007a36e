package conformance

import (
	"context"
	"slices"
	"testing"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// What the service refuses, and by which code.
func TestRequestsThatCannotBe(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	s.exec(s.id, "e", streams{}, "sleep", "inf")
	nobody, ctx := h.id("nobody"), h.ctx()
	for name, c := range map[string]struct {
		do   func() error
		want codes.Code
	}{
		"create again":              {func() error { return s.tryCreate(ctx, s.id, streams{}, h.layer("base")) }, codes.AlreadyExists},
		"create with an id of dots": {func() error { return s.tryCreate(ctx, "..", streams{}, h.layer("base")) }, codes.InvalidArgument},
		"state of nobody":           {func() error { _, err := s.State(ctx, &taskapi.StateRequest{ID: nobody}); return err }, codes.NotFound},
		"state of no exec":          {func() error { _, err := s.State(ctx, &taskapi.StateRequest{ID: s.id, ExecID: "x"}); return err }, codes.NotFound},
		"pids of nobody":            {func() error { _, err := s.Pids(ctx, &taskapi.PidsRequest{ID: nobody}); return err }, codes.NotFound},
		"start of nobody":           {func() error { _, err := s.Start(ctx, &taskapi.StartRequest{ID: nobody}); return err }, codes.NotFound},
		"start again":               {func() error { _, err := s.Start(ctx, &taskapi.StartRequest{ID: s.id}); return err }, codes.FailedPrecondition},
		"kill of nobody":            {func() error { _, err := s.Kill(ctx, &taskapi.KillRequest{ID: nobody, Signal: 9}); return err }, codes.NotFound},
		"kill before the start": {func() error {
			_, err := s.Kill(ctx, &taskapi.KillRequest{ID: s.id, ExecID: "e", Signal: 9})
			return err
		}, codes.FailedPrecondition},
		"delete of what runs":        {func() error { _, err := s.Delete(ctx, &taskapi.DeleteRequest{ID: s.id}); return err }, codes.FailedPrecondition},
		"delete of nobody":           {func() error { _, err := s.Delete(ctx, &taskapi.DeleteRequest{ID: nobody}); return err }, codes.NotFound},
		"wait for nobody":            {func() error { _, err := s.Wait(ctx, &taskapi.WaitRequest{ID: nobody}); return err }, codes.NotFound},
		"exec in nobody":             {func() error { return s.tryExec(nobody, "e", streams{}, "true") }, codes.NotFound},
		"exec of a known id":         {func() error { return s.tryExec(s.id, "e", streams{}, "true") }, codes.AlreadyExists},
		"exec without an id":         {func() error { return s.tryExec(s.id, "", streams{}, "true") }, codes.InvalidArgument},
		"exec of nothing":            {func() error { _, err := s.Exec(ctx, &taskapi.ExecProcessRequest{ID: s.id, ExecID: "n"}); return err }, codes.InvalidArgument},
		"resume of what runs":        {func() error { _, err := s.Resume(ctx, &taskapi.ResumeRequest{ID: s.id}); return err }, codes.FailedPrecondition},
		"update with nothing":        {func() error { _, err := s.Update(ctx, &taskapi.UpdateTaskRequest{ID: s.id}); return err }, codes.InvalidArgument},
		"checkpoint":                 {func() error { _, err := s.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: s.id}); return err }, codes.Unimplemented},
		"stats of nobody":            {func() error { _, err := s.Stats(ctx, &taskapi.StatsRequest{ID: nobody}); return err }, codes.NotFound},
		"close the input of nobody":  {func() error { _, err := s.CloseIO(ctx, &taskapi.CloseIORequest{ID: nobody, Stdin: true}); return err }, codes.NotFound},
		"close the input of no pipe": {func() error { _, err := s.CloseIO(ctx, &taskapi.CloseIORequest{ID: s.id, Stdin: true}); return err }, codes.OK},
		"resize before the start": {func() error {
			_, err := s.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: s.id, ExecID: "e", Width: 1, Height: 1})
			return err
		}, codes.OK},
		"connect":                   {func() error { _, err := s.Connect(ctx, &taskapi.ConnectRequest{ID: nobody}); return err }, codes.OK},
		"shutdown with a container": {func() error { _, err := s.Shutdown(ctx, &taskapi.ShutdownRequest{ID: s.id, Now: true}); return err }, codes.OK},
	} {
		if got := status.Code(c.do()); got != c.want {
			t.Errorf("%s answers %v, want %v", name, got, c.want)
		}
	}
	if state, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id}); err != nil || state.Status != task.Status_RUNNING {
		t.Errorf("after all that the container is %v, %v", state, err)
	}
	s.finish(s.id)
	h.wantEvents("create "+s.id, "start "+s.id, "exec-added "+s.id+" e", "exit "+s.id+" "+s.id+" 137", "delete "+s.id+" 137")
}

func TestFieldsOfEvents(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.single("one")
	stdout := h.fifo("out")
	h.read(stdout)
	began := time.Now()
	s.create(s.id, streams{stdout: stdout}, h.layer("base"))
	s.run(s.id, "")
	pid := uint32(h.vmms()[0])
	s.finish(s.id)
	h.eventually("the last event", func() bool { return len(h.sink.list()) == 4 })
	h.sink.mu.Lock()
	defer h.sink.mu.Unlock()
	created := h.sink.events[0].content.(*events.TaskCreate)
	if created.Bundle != h.dir+"/bundles/"+s.id || len(created.Rootfs) != 1 || created.IO.Stdout != stdout || created.Pid != pid {
		t.Errorf("TaskCreate %v", created)
	}
	if e := h.sink.events[1].content.(*events.TaskStart); e.Pid != pid {
		t.Errorf("TaskStart %v", e)
	}
	exit := h.sink.events[2].content.(*events.TaskExit)
	if exit.ID != s.id || exit.Pid != pid || exit.ExitedAt.AsTime().Before(began) {
		t.Errorf("TaskExit %v", exit)
	}
	deleted := h.sink.events[3].content.(*events.TaskDelete)
	if deleted.ID != "" || deleted.Pid != pid || !deleted.ExitedAt.AsTime().Equal(exit.ExitedAt.AsTime()) {
		t.Errorf("TaskDelete %v", deleted)
	}
	for i, topic := range []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"} {
		if got := h.sink.events[i].topic; got != topic {
			t.Errorf("event %d has the topic %s", i, got)
		}
	}
}

// A policy that refuses what changes a container does not hurt the container.
func TestRefusalsByPolicyChangeNothing(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	for _, rpc := range []string{"UpdateContainer", "PauseContainer", "StatsContainer"} {
		s.agent.Fail(rpc, 1, status.Error(codes.PermissionDenied, `"`+rpc+`Request is blocked by policy: "`))
	}
	denied := func(err error) bool { return errdefs.IsPermissionDenied(errgrpc.ToNative(err)) }
	limit, quota := int64(64<<20), int64(50000)
	less := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Quota: &quota}}
	if err := s.update(s.id, less); !denied(err) {
		t.Errorf("update: %v", err)
	}
	if _, err := s.Pause(h.ctx(), &taskapi.PauseRequest{ID: s.id}); !denied(err) {
		t.Errorf("pause: %v", err)
	}
	if _, err := s.Stats(h.ctx(), &taskapi.StatsRequest{ID: s.id}); !denied(err) {
		t.Errorf("stats: %v", err)
	}
	if state, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id}); err != nil || state.Status != task.Status_RUNNING {
		t.Errorf("the container is %v, %v", state, err)
	}
	if err := s.update(s.id, less); err != nil {
		t.Errorf("update that is allowed: %v", err)
	}
	i := slices.IndexFunc(s.agent.Calls(), func(c agenttest.Call) bool { return c.RPC == "UpdateContainer" })
	r := s.agent.Calls()[i].Request.(*agentpb.UpdateContainerRequest)
	if r.ContainerId != s.id || r.Resources.GetMemory().GetLimit() != 64<<20 || r.Resources.GetCPU().GetQuota() != 50000 {
		t.Errorf("the guest was asked for %v", r)
	}
	s.finish(s.id)
	if slices.Contains(h.sink.list(), "paused "+s.id) {
		t.Error("containerd was told of a pause that was refused")
	}
}

// The counters come in the form of the guest's cgroups, whatever the host's are.
func TestCountersOfBothVersions(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	r, err := s.Stats(h.ctx(), &taskapi.StatsRequest{ID: s.id})
	if err != nil {
		t.Fatal(err)
	}
	var v2 cgroup2.Metrics
	if err := r.Stats.UnmarshalTo(&v2); err != nil {
		t.Fatal(err)
	}
	if v2.CPU.UsageUsec != 3e6 || v2.CPU.UserUsec != 2e6 || v2.CPU.SystemUsec != 1e6 || v2.Memory.Usage != 8<<20 || v2.Memory.InactiveFile != 1<<20 || v2.Pids.Current != 3 {
		t.Errorf("version 2: %v", &v2)
	}
	s.agent.Answer("StatsContainer", func(context.Context, proto.Message) (proto.Message, error) {
		return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{
			CpuStats:    &agentpb.CpuStats{CpuUsage: &agentpb.CpuUsage{TotalUsage: 7}},
			MemoryStats: &agentpb.MemoryStats{Stats: map[string]uint64{"cache": 1, "total_inactive_file": 2, "pgmajfault": 3}},
		}}, nil
	})
	if r, err = s.Stats(h.ctx(), &taskapi.StatsRequest{ID: s.id}); err != nil {
		t.Fatal(err)
	}
	var v1 cgroup1.Metrics
	if err := r.Stats.UnmarshalTo(&v1); err != nil {
		t.Fatal(err)
	}
	if v1.CPU.Usage.Total != 7 || v1.Memory.Cache != 1 || v1.Memory.TotalInactiveFile != 2 || v1.Memory.PgMajFault != 3 {
		t.Errorf("version 1: %v", &v1)
	}
	s.finish(s.id)
}

// A caller who did not get the answer to a Delete asks again, even while the first
// one is at work, and gets the same answer; containerd is told once.
func TestDeleteWhoseAnswerWasLost(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	id := s.runningMember("a")
	s.kill(id, "", uint32(unix.SIGTERM))
	s.wait(id, "")
	release := s.agent.Hang("RemoveContainer", 1)
	short, cancel := context.WithTimeout(h.ctx(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Delete(short, &taskapi.DeleteRequest{ID: id}); err == nil {
		t.Fatal("it was deleted though the guest did not answer")
	}
	answers := make(chan uint32, 2)
	for range 2 {
		go func() {
			r, err := s.Delete(h.ctx(), &taskapi.DeleteRequest{ID: id})
			if err != nil {
				t.Error(err)
			}
			answers <- r.GetExitStatus()
		}()
	}
	release()
	for range 2 {
		if got := <-answers; got != 128+15 {
			t.Errorf("deleted with exit status %d", got)
		}
	}
	s.finish(s.id)
	if n := len(slices.DeleteFunc(h.sink.list(), func(e string) bool { return e != "delete "+id+" 143" })); n != 1 {
		t.Errorf("told %d times", n)
	}
}
