package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/protobuf"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// shim is a shim that was started, and a connection to it.
type shim struct {
	taskapi.TaskService
	h     *host
	id    string
	pid   int
	agent *agenttest.Agent
	conn  *ttrpc.Client

	mu      sync.Mutex
	text    bytes.Buffer
	answers []answer
}

// command is a call of the shim's program for a bundle.
func (h *host) command(bundle string, args ...string) *exec.Cmd {
	script := filepath.Join(h.dir, "script.json")
	var argv []string
	if h.enter != nil {
		argv = append(slices.Clone(h.enter), bundle)
	}
	argv = append(argv, shimBinary, "-namespace", namespace, "-address", h.address, "-publish-binary", "/bin/false")
	argv = append(argv, args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = bundle
	if h.stdin != nil {
		cmd.Stdin = bytes.NewReader(h.stdin)
	}
	cmd.Env = append(os.Environ(),
		"GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "NAMESPACE="+namespace, "TTRPC_ADDRESS="+filepath.Join(h.dir, "events.sock"), memory.ScriptEnv+"="+script)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	return cmd
}

// start calls the shim's start for a bundle and connects to the answer.
func (h *host) start(id string, changes ...change) *shim {
	h.t.Helper()
	s, err := h.tryStart(id, changes...)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *host) tryStart(id string, changes ...change) (*shim, error) {
	h.t.Helper()
	bundle := h.bundle(id, changes...)
	text, err := json.Marshal(h.script)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("script.json", string(text))
	s := &shim{h: h, id: id}
	logs, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { logs.Close() })
	go s.readLog(logs)
	h.mu.Lock()
	h.sandboxes = append(h.sandboxes, id)
	h.mu.Unlock()

	var stderr strings.Builder
	cmd := h.command(bundle, "-id", id, "-debug", "start")
	cmd.Stderr = &stderr
	address, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w: %s", id, err, stderr.String())
	}
	if stderr.Len() > 0 {
		h.t.Errorf("start %s wrote to standard error: %s", id, stderr.String())
	}
	path, ok := strings.CutPrefix(string(address), "unix://")
	if !ok {
		h.t.Fatalf("start %s answered %q", id, address)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		h.t.Fatal(err)
	}
	s.conn = ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(s.note))
	s.TaskService = taskapi.NewTaskClient(s.conn)
	c, err := s.Connect(h.ctx(), &taskapi.ConnectRequest{ID: id})
	if err != nil {
		h.t.Fatal(err)
	}
	s.pid = int(c.ShimPid)
	h.mu.Lock()
	h.shims = append(h.shims, s)
	h.mu.Unlock()
	return s, nil
}

func (s *shim) readLog(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// log is what the shim has logged so far.
func (s *shim) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *shim) disconnect() {
	if s.conn != nil {
		s.conn.Close()
	}
}

// single starts a shim with an agent for a container without a pod.
func (h *host) single(name string, changes ...change) *shim {
	h.t.Helper()
	id := h.id(name)
	agent := h.newAgent(id)
	s := h.start(id, changes...)
	s.agent = agent
	return s
}

// pod starts a shim with an agent for the pause container of a pod.
func (h *host) pod(name string, changes ...change) *shim {
	h.t.Helper()
	id := h.id(name)
	return h.single(name, append([]change{inPod(id, id), args("pause")}, changes...)...)
}

// running is a container without a pod that runs.
func (h *host) running() *shim {
	h.t.Helper()
	s := h.single("one")
	s.create(s.id, streams{}, h.layer("base"))
	s.run(s.id, "")
	return s
}

// runningPod is a pod whose pause container runs.
func (h *host) runningPod(changes ...change) *shim {
	h.t.Helper()
	s := h.pod("pod", changes...)
	s.create(s.id, streams{}, h.layer("pause"))
	s.run(s.id, "")
	return s
}

// runningMember is a container of the pod that runs.
func (s *shim) runningMember(name string, changes ...change) (id string) {
	s.h.t.Helper()
	id = s.h.id(name)
	s.attach(id, changes...)
	s.create(id, streams{}, s.h.layer("base"))
	s.run(id, "")
	return id
}

// streams are where a process's streams go.
type streams struct {
	stdin, stdout, stderr string
	terminal              bool
}

// options are the runtime options that containerd sends.
func (h *host) options() *anypb.Any {
	value, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: h.config})
	if err != nil {
		h.t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: value}
}

func (s *shim) tryCreate(ctx context.Context, id string, io streams, layers ...string) error {
	_, err := s.Create(ctx, &taskapi.CreateTaskRequest{
		ID: id, Bundle: filepath.Join(s.h.dir, "bundles", id), Rootfs: s.h.rootfs(layers...), Options: s.h.options(),
		Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr, Terminal: io.terminal,
	})
	return err
}

func (s *shim) create(id string, io streams, layers ...string) {
	s.h.t.Helper()
	if err := s.tryCreate(s.h.ctx(), id, io, layers...); err != nil {
		s.h.t.Fatalf("create %s: %v", id, err)
	}
}

// run starts a process.
func (s *shim) run(id, exec string) {
	s.h.t.Helper()
	r, err := s.Start(s.h.ctx(), &taskapi.StartRequest{ID: id, ExecID: exec})
	if err != nil {
		s.h.t.Fatalf("start %s %s: %v", id, exec, err)
	}
	if r.Pid == 0 {
		s.h.t.Errorf("start %s %s answered no pid", id, exec)
	}
}

func (s *shim) exec(id, exec string, io streams, args ...string) {
	s.h.t.Helper()
	if err := s.tryExec(id, exec, io, args...); err != nil {
		s.h.t.Fatalf("exec %s %s: %v", id, exec, err)
	}
}

func (s *shim) tryExec(id, exec string, io streams, args ...string) error {
	s.h.t.Helper()
	spec, err := json.Marshal(specs.Process{Args: args, Cwd: "/", Terminal: io.terminal})
	if err != nil {
		s.h.t.Fatal(err)
	}
	_, err = s.Exec(s.h.ctx(), &taskapi.ExecProcessRequest{
		ID: id, ExecID: exec, Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr, Terminal: io.terminal,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec},
	})
	return err
}

func (s *shim) kill(id, exec string, signal uint32) {
	s.h.t.Helper()
	if _, err := s.Kill(s.h.ctx(), &taskapi.KillRequest{ID: id, ExecID: exec, Signal: signal}); err != nil {
		s.h.t.Fatalf("kill %s %s: %v", id, exec, err)
	}
}

// wait returns a process's exit status.
func (s *shim) wait(id, exec string) uint32 {
	s.h.t.Helper()
	r, err := s.Wait(s.h.ctx(), &taskapi.WaitRequest{ID: id, ExecID: exec})
	if err != nil {
		s.h.t.Fatalf("wait %s %s: %v", id, exec, err)
	}
	if protobuf.FromTimestamp(r.ExitedAt).IsZero() {
		s.h.t.Errorf("wait %s %s answered no time", id, exec)
	}
	return r.ExitStatus
}

func (s *shim) remove(id, exec string) uint32 {
	s.h.t.Helper()
	r, err := s.Delete(s.h.ctx(), &taskapi.DeleteRequest{ID: id, ExecID: exec})
	if err != nil {
		s.h.t.Fatalf("delete %s %s: %v", id, exec, err)
	}
	return r.ExitStatus
}

// shutdown asks the shim to end, closes the connection and calls delete, as
// containerd does for every task it has deleted.
func (s *shim) shutdown(id string) {
	s.h.t.Helper()
	if _, err := s.Shutdown(s.h.ctx(), &taskapi.ShutdownRequest{ID: id}); err != nil && !errors.Is(err, ttrpc.ErrClosed) { // it may end before its answer is out
		s.h.t.Errorf("shutdown %s: %v", id, err)
	}
	s.h.delete(id)
}

// delete calls the shim's delete for a bundle and returns its answer.
func (h *host) delete(id string) *taskapi.DeleteResponse {
	h.t.Helper()
	bundle := filepath.Join(h.dir, "bundles", id)
	cmd := h.command(bundle, "-id", id, "-bundle", bundle, "delete")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("delete %s: %v: %s", id, err, stderr.String())
	}
	var r taskapi.DeleteResponse
	if err := proto.Unmarshal(out, &r); err != nil {
		h.t.Fatalf("delete %s answered %q: %v", id, out, err)
	}
	return &r
}

// finish kills, deletes and shuts down.
func (s *shim) finish(ids ...string) {
	s.h.t.Helper()
	for _, id := range ids {
		s.kill(id, "", uint32(unix.SIGKILL))
		s.wait(id, "")
		s.remove(id, "")
		s.shutdown(id)
	}
}

// reader collects what comes out of a fifo.
type reader struct {
	done chan struct{}
	text []byte
}

func (h *host) read(path string) *reader {
	r := &reader{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		f, err := os.Open(path) // waits for the writer
		if err != nil {
			return
		}
		defer f.Close()
		r.text, _ = io.ReadAll(f)
	}()
	return r
}

// all waits for the end and returns everything.
func (r *reader) all(t testing.TB) string {
	t.Helper()
	select {
	case <-r.done:
		return string(r.text)
	case <-time.After(limit):
		t.Fatal("output does not end")
		return ""
	}
}
