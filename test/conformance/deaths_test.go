package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// life is a pod with one container and one exec, step by step as containerd
// walks it. A step that fails stops no later one: containerd tries too.
type life struct {
	h       *host
	s       *shim
	id      string // of the container
	created map[string]bool

	lostEvents bool // containerd was away for a time
}

func newLife(h *host) *life {
	return &life{h: h, s: h.pod("pod"), id: h.id("a"), created: map[string]bool{}}
}

type step struct {
	name string
	do   func()
}

func (l *life) steps() []step {
	s, h := l.s, l.h
	kill := func(id, exec string) func() {
		return func() {
			_, _ = s.Kill(h.ctx(), &taskapi.KillRequest{ID: id, ExecID: exec, Signal: uint32(unix.SIGKILL)})
		}
	}
	start := func(id, exec string) func() {
		return func() { _, _ = s.Start(h.ctx(), &taskapi.StartRequest{ID: id, ExecID: exec}) }
	}
	remove := func(id string) func() {
		return func() {
			_, _ = s.Wait(h.ctx(), &taskapi.WaitRequest{ID: id})
			if _, err := s.Delete(h.ctx(), &taskapi.DeleteRequest{ID: id}); err == nil {
				delete(l.created, id)
			}
		}
	}
	return []step{
		{"create pod", func() { l.create(s.id, h.layer("pause")) }},
		{"start pod", start(s.id, "")},
		{"create container", func() {
			if s.tryAttach(l.id) == nil {
				l.create(l.id, h.layer("top"), h.layer("base"))
			}
		}},
		{"start container", start(l.id, "")},
		{"add exec", func() {
			stdout := h.fifo("out")
			h.read(stdout)
			_ = s.tryExec(l.id, "e", streams{stdout: stdout}, "sleep", "inf")
		}},
		{"start exec", start(l.id, "e")},
		{"kill exec", kill(l.id, "e")},
		{"kill container", kill(l.id, "")},
		{"delete container", remove(l.id)},
		{"kill pod", kill(s.id, "")},
		{"delete pod", remove(s.id)},
	}
}

func (l *life) create(id string, layers ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if l.s.tryCreate(ctx, id, streams{}, layers...) == nil {
		l.created[id] = true
	}
}

// end deletes what was created and checks that every start has its exit.
func (l *life) end() {
	l.h.t.Helper()
	for _, id := range []string{l.id, l.s.id} {
		if l.created[id] {
			l.h.bury(l.s, id)
		}
	}
	l.s.shutdown(l.s.id)
	events := l.h.sink.list()
	if l.lostEvents { // one whose answer was lost with containerd is sent again
		events = slices.Compact(events)
	}
	l.h.wantEveryExit(events)
}

// endByDelete is what containerd does for a shim that was killed, more than once.
func (l *life) endByDelete() {
	l.h.t.Helper()
	for range 2 {
		for _, id := range []string{l.id, l.s.id} {
			if _, err := os.Stat(filepath.Join(l.h.dir, "bundles", id)); err == nil {
				l.h.delete(id)
			}
		}
	}
}

// victims are who may die between two steps, or while one is under way.
var victims = map[string]func(l *life){
	"shim":  func(l *life) { killShim(l.h, l.s) },
	"VMM":   func(l *life) { l.h.killVMMs() },
	"agent": func(l *life) { l.s.agent.Die() },
	"containerd": func(l *life) {
		l.lostEvents = true
		l.h.sink.close()
		os.Remove(filepath.Join(l.h.dir, "events.sock"))
	},
}

func (h *host) killVMMs() {
	for _, pid := range h.vmms() {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// Somebody dies between two steps: the rest of the life answers in time, every
// process that started is told to have ended, and nothing is left.
func TestMatrixOfDeathsBetweenSteps(t *testing.T) {
	names := (&life{h: &host{}, s: &shim{}}).steps()
	for victim, die := range victims {
		for at := range names {
			t.Run(fmt.Sprintf("%s after %s", victim, names[at].name), func(t *testing.T) {
				t.Parallel()
				l := newLife(newHost(t, memory.Script{}))
				steps := l.steps()
				for _, step := range steps[:at+1] {
					step.do()
				}
				die(l)
				if victim == "shim" {
					l.endByDelete()
					return
				}
				for _, step := range steps[at+1:] {
					step.do()
				}
				if victim == "containerd" {
					l.h.sink.listen(filepath.Join(l.h.dir, "events.sock"))
				}
				l.end()
			})
		}
	}
}

// Somebody dies while the agent has a request that it does not answer.
func TestMatrixOfDeathsDuringARequest(t *testing.T) {
	for _, victim := range []string{"shim", "VMM"} {
		for rpc, most := range agentCalls {
			for n := 1; n <= most; n++ {
				t.Run(fmt.Sprintf("%s in %s %d", victim, rpc, n), func(t *testing.T) {
					t.Parallel()
					l := newLife(newHost(t, memory.Script{}))
					l.s.agent.Hang(rpc, n)
					done := make(chan struct{})
					go func() {
						defer close(done)
						for _, step := range l.steps() {
							step.do()
						}
						if victim != "shim" {
							l.end()
						}
					}()
					if !l.awaitCall(rpc, n, done) {
						t.Errorf("this life ended without that call: %q", l.s.agent.Names())
						if victim == "shim" {
							l.end()
						}
						return
					}
					victims[victim](l)
					<-done
					if victim == "shim" {
						l.endByDelete()
					}
				})
			}
		}
	}
}

// awaitCall returns true once the agent has the n-th call of an RPC, and false
// if the life ends without it.
func (l *life) awaitCall(rpc string, n int, done <-chan struct{}) bool {
	for {
		if count(l.s.agent, rpc) >= n {
			return true
		}
		select {
		case <-done:
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// damages are what may have happened to a layer file when it is to be plugged.
var damages = map[string]func(file string) error{
	"missing":     os.Remove,
	"cut short":   func(file string) error { return os.Truncate(file, 3*4096-1) },
	"empty":       func(file string) error { return os.Truncate(file, 0) },
	"a directory": func(file string) error { return replace(file, func() error { return os.Mkdir(file, 0o700) }) },
	"a pipe":      func(file string) error { return replace(file, func() error { return unix.Mkfifo(file, 0o600) }) },
	"a socket": func(file string) error {
		return replace(file, func() error { return unix.Mknod(file, unix.S_IFSOCK|0o600, 0) })
	},
	"a device": func(file string) error {
		return replace(file, func() error { return unix.Mknod(file, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) })
	},
	"a qcow2 image": func(file string) error {
		return os.WriteFile(file, []byte("QFI\xfb"+strings.Repeat("x", 3*4096-4)), 0o600)
	},
	"a VHDX image": func(file string) error {
		return os.WriteFile(file, []byte("vhdxfile"+strings.Repeat("x", 3*4096-8)), 0o600)
	},
	"a VHD image": func(file string) error {
		footer := make([]byte, 512)
		copy(footer, "conectix\x00\x00\x00\x02\x00\x01\x00\x00")
		footer[63] = 2 // a fixed disk
		return os.WriteFile(file, append(make([]byte, 3*4096-512), footer...), 0o600)
	},
	"a dangling link": func(file string) error {
		return replace(file, func() error { return os.Symlink("/nowhere/at/all", file) })
	},
}

func replace(file string, with func() error) error {
	if err := os.Remove(file); err != nil {
		return err
	}
	return with()
}

// A layer that is not what it should be: the container is not created, the error
// names the layer's file, and the pod and its other containers go on.
func TestMatrixOfDamagedLayers(t *testing.T) {
	for damage, do := range damages {
		for _, which := range []string{"pause", "top", "base"} {
			t.Run(which+" is "+damage, func(t *testing.T) {
				t.Parallel()
				h := newHost(t, memory.Script{})
				s := h.pod("pod")
				layers := map[string]string{}
				for _, content := range []string{"pause", "top", "base"} {
					layers[content] = h.layer(content)
				}
				if err := do(filepath.Join(h.dir, "layers", layers[which])); err != nil {
					t.Fatal(err)
				}
				if which == "pause" {
					wantText(t, s.tryCreate(h.ctx(), s.id, streams{}, layers["pause"]), layers["pause"])
					s.giveUp()
					return
				}
				s.create(s.id, streams{}, layers["pause"])
				s.run(s.id, "")
				id := h.id("a")
				s.attach(id)
				wantText(t, s.tryCreate(h.ctx(), id, streams{}, layers["top"], layers["base"]), layers[which])
				h.wantDisks(s.id, layers["pause"])
				sound := h.id("b")
				s.attach(sound)
				s.create(sound, streams{}, layers["pause"])
				s.run(sound, "")
				s.finish(sound)
				s.finish(s.id)
				if slices.ContainsFunc(h.sink.list(), func(e string) bool { return strings.Contains(e, id) }) {
					t.Errorf("events of a container that never was: %q", h.sink.list())
				}
			})
		}
	}
}
