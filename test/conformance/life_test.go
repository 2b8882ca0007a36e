package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// life is a pod with two containers and an exec, step by step as containerd walks
// it. A step that fails stops no later one: containerd tries too.
type life struct {
	h  *host
	s  *shim
	id string // of the container to which most is done
	// other is the container that runs beside it.
	other string
	// patience is how long containerd waits for an answer.
	patience time.Duration

	lostEvents bool  // containerd was away for a time
	busy       *busy // nil: the pod does no more than a life needs

	mu      sync.Mutex
	created map[string]bool
	silent  map[string]bool // did not answer State
	unwatch func()
}

// newLife starts a pod's shim; nothing is created yet.
func newLife(h *host, changes ...change) *life {
	l := &life{h: h, id: h.id("a"), other: h.id("b"), patience: limit, created: map[string]bool{}, silent: map[string]bool{}}
	l.s = h.pod("pod", changes...)
	l.watch()
	return l
}

type step struct {
	name string
	do   func()
}

func (l *life) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	l.h.t.Cleanup(cancel)
	return ctx
}

func (l *life) steps() []step {
	s, h := l.s, l.h
	kill := func(id, exec string) func() {
		return func() {
			_, _ = s.Kill(h.ctx(), &taskapi.KillRequest{ID: id, ExecID: exec, Signal: uint32(unix.SIGKILL)})
		}
	}
	start := func(id, exec string) func() {
		return func() { _, _ = s.Start(l.ctx(), &taskapi.StartRequest{ID: id, ExecID: exec}) }
	}
	add := func(id string, contents ...string) func() {
		return func() {
			if err := s.tryAttach(id, l.changes(id)...); err != nil {
				h.t.Log(err)
				return
			}
			var layers []string
			for _, c := range contents {
				layers = append(layers, h.layer(c))
			}
			l.create(id, layers...)
		}
	}
	end := func(id string) func() {
		return func() {
			_, _ = s.Wait(h.ctx(), &taskapi.WaitRequest{ID: id})
			l.remove(id)
		}
	}
	steps := []step{
		{"create pod", func() { l.create(s.id, h.layer("pause")) }},
		{"start pod", start(s.id, "")},
		{"run another", func() {
			add(l.other, "other")()
			start(l.other, "")()
		}},
		{"create container", add(l.id, "top", "base")},
		{"start container", start(l.id, "")},
		{"add exec", func() {
			stdout := h.fifo("out")
			h.read(stdout)
			_ = s.tryExec(l.id, "e", l.terminal(streams{stdout: stdout}), "sleep", "inf")
			if l.busy != nil {
				l.resizeTerminal()
			}
		}},
		{"start exec", start(l.id, "e")},
		{"kill exec", func() {
			kill(l.id, "e")()
			_, _ = s.Wait(h.ctx(), &taskapi.WaitRequest{ID: l.id, ExecID: "e"})
		}},
		{"kill container", kill(l.id, "")},
		{"delete container", end(l.id)},
		{"end the other", func() {
			kill(l.other, "")()
			end(l.other)()
		}},
		{"kill pod", kill(s.id, "")},
		{"delete pod", end(s.id)},
	}
	if l.busy != nil {
		after := slices.IndexFunc(steps, func(s step) bool { return s.name == "start exec" })
		steps = slices.Insert(steps, after+1, step{"use everything", l.useEverything})
	}
	return steps
}

// phases are the names of the steps.
func phases() []string {
	var names []string
	for _, s := range (&life{h: &host{}, s: &shim{}}).steps() {
		names = append(names, s.name)
	}
	return names
}

// walk takes the steps from one to another, which is not taken; 0: to the last.
func (l *life) walk(from, to int) {
	steps := l.steps()
	if to == 0 {
		to = len(steps)
	}
	for _, s := range steps[from:to] {
		s.do()
	}
}

func (l *life) create(id string, layers ...string) {
	if l.s.tryCreate(l.ctx(), id, l.streams(id), layers...) == nil {
		l.mark(id, true)
	}
}

// remove asks for a container to be deleted, once.
func (l *life) remove(id string) {
	if _, err := l.s.Delete(l.ctx(), &taskapi.DeleteRequest{ID: id}); err == nil {
		l.mark(id, false)
	}
}

func (l *life) mark(id string, created bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.created[id] = created
}

func (l *life) isCreated(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.created[id]
}

// answerLimit is how long the state of a container may take to be told, whatever
// goes on elsewhere in the pod.
const answerLimit = time.Second

// askPause is the pause between two such questions: asking more often finds nothing
// more and takes time from the cells that work.
const askPause = answerLimit / 8

// watch asks for the state of every container that was created, again and again.
// One that does not answer twice in a row is noted; once may be this machine.
func (l *life) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.unwatch = func() { cancel(); <-done }
	l.h.t.Cleanup(l.unwatch)
	go func() {
		defer close(done)
		late := map[string]int{}
		for ctx.Err() == nil {
			for _, id := range []string{l.s.id, l.other, l.id} {
				if !l.isCreated(id) {
					continue
				}
				if err := l.ask(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
					late[id] = 0
				} else if late[id]++; late[id] == 2 {
					l.mu.Lock()
					l.silent[id] = true
					l.mu.Unlock()
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(askPause):
			}
		}
	}()
}

func (l *life) ask(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	_, err := l.s.State(ctx, &taskapi.StateRequest{ID: id})
	return err
}

// end deletes what was created, as containerd does: the containers, the pod, and
// what did not go before the pod. It then checks what every life has in common.
func (l *life) end() {
	l.h.t.Helper()
	for _, order := range [][]string{{l.id, l.other, l.s.id}, {l.s.id, l.id, l.other}, {l.id, l.other}} {
		for _, id := range order {
			if l.isCreated(id) {
				l.bury(id)
			}
		}
		l.patience = limit
	}
	for _, id := range []string{l.id, l.other, l.s.id} {
		if l.isCreated(id) {
			l.h.t.Errorf("%s cannot be deleted", id)
		}
	}
	l.unwatch()
	l.s.shutdown(l.s.id)
	l.endByDelete()
	l.h.eventually("the shim's end", func() bool { _, ok := l.h.processes()[l.s.pid]; return !ok }) // and with it its last event
	for id := range l.silent {
		l.h.t.Errorf("state of %s was not told within %v", id, answerLimit)
	}
	events := l.h.sink.list()
	if l.lostEvents { // one whose answer was lost with containerd is sent again
		events = slices.Compact(events)
	}
	l.h.wantEveryExit(events)
}

// bury kills a container and tries to delete it.
func (l *life) bury(id string) {
	l.h.t.Helper()
	_, _ = l.s.Kill(l.h.ctx(), &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	if _, err := l.s.Wait(l.h.ctx(), &taskapi.WaitRequest{ID: id}); err != nil && !isNotFound(err) { // deleted after all
		l.h.t.Errorf("wait for %s: %v", id, err)
	}
	l.remove(id)
}

// endByDelete calls delete for every bundle there is, and once more.
func (l *life) endByDelete() {
	l.h.t.Helper()
	for range 2 {
		for _, id := range []string{l.id, l.other, l.s.id} {
			if _, err := os.Stat(filepath.Join(l.h.dir, "bundles", id)); err == nil {
				l.h.delete(id)
			}
		}
	}
}

// wantEveryExit checks that whatever the events tell to have started they tell to
// have ended, once, and after that.
func (h *host) wantEveryExit(events []string) {
	h.t.Helper()
	var open []string
	for _, e := range events {
		fields := strings.Fields(e)
		switch fields[0] {
		case "start":
			open = append(open, fields[1]+" "+fields[1])
		case "exec-started":
			open = append(open, fields[1]+" "+fields[2])
		case "exit":
			i := slices.Index(open, fields[1]+" "+fields[2])
			if i < 0 {
				if fields[1] != fields[2] { // a container may be killed before it is started
					h.t.Errorf("%s was not started", e)
				}
				continue
			}
			open = slices.Delete(open, i, i+1)
		}
	}
	if len(open) > 0 {
		h.t.Errorf("not told to have ended: %q; events %q", open, events)
	}
}

// answer is how the shim answered a request.
type answer struct {
	rpc  string
	code codes.Code
	text string
}

// note keeps the answer to every request.
func (s *shim) note(ctx context.Context, request *ttrpc.Request, response *ttrpc.Response, _ *ttrpc.UnaryClientInfo, call ttrpc.Invoker) error {
	if err := call(ctx, request, response); err != nil {
		return err // not the shim's answer
	}
	a := answer{request.Method, codes.Code(response.GetStatus().GetCode()), response.GetStatus().GetMessage()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a)
	return nil
}

// refusals are the answers other than OK.
func (s *shim) refusals() []answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []answer
	for _, a := range s.answers {
		if a.code != codes.OK {
			all = append(all, a)
		}
	}
	return all
}

// wantCodes checks that everything that was refused was refused with one of these
// codes: that of the fault, or one that says that a step before it had failed.
func (l *life) wantCodes(allowed ...codes.Code) {
	l.h.t.Helper()
	for _, a := range l.s.refusals() {
		if a.rpc == "State" && a.code == codes.NotFound { // asked while it was being deleted
			continue
		}
		if !slices.Contains(allowed, a.code) {
			l.h.t.Errorf("%s answered %v, want one of %v: %s", a.rpc, a.code, allowed, a.text)
		}
	}
}
