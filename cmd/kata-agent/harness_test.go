package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// callTimeout bounds every call of the tests.
const callTimeout = 30 * time.Second

// busybox is the one program of the tests' root file system.
const busybox = "/bin/busybox"

// agentEnv makes the test binary be the agent. So the agent is under the race
// detector with its tests, and a result is not cached when its code has changed.
const agentEnv = "KATA_AGENT_TEST_IS_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// agent is the program running in namespaces of its own, and a connection to it.
type agent struct {
	t      *testing.T
	cmd    *exec.Cmd
	socket string
	rootfs string
	log    *lockedBuffer
	exited chan struct{}
	agentpb.AgentServiceService
	health agentpb.HealthService
	conn   *ttrpc.Client
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func requirements(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, path := range []string{crunPath, busybox} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs %s", path)
		}
	}
}

// startAgent starts an agent without a sandbox.
func startAgent(t *testing.T) *agent {
	t.Helper()
	requirements(t)
	a := newAgent(t)
	a.launch(exec.Command("/proc/self/exe", "-isolate"))
	return a
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{t: t, socket: filepath.Join(dir, "agent.sock"), log: &lockedBuffer{}, exited: make(chan struct{})}
	a.rootfs = makeRootfs(t, filepath.Join(dir, "rootfs"))
	return a
}

// launch starts a command that is, or starts, the agent.
func (a *agent) launch(cmd *exec.Cmd) {
	a.t.Helper()
	a.cmd = cmd
	a.cmd.Env = append(os.Environ(), agentEnv+"=1", "KATA_AGENT_SERVER_ADDR=unix://"+a.socket, "KATA_AGENT_LOG_LEVEL=debug")
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	go func() {
		_ = a.cmd.Wait()
		close(a.exited)
	}()
	a.t.Cleanup(a.stop)
	a.connect()
}

func (a *agent) connect() {
	a.t.Helper()
	var conn net.Conn
	deadline := time.Now().Add(callTimeout)
	for {
		var err error
		if conn, err = net.Dial("unix", a.socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("the agent does not listen: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	a.conn = ttrpc.NewClient(conn)
	a.AgentServiceService = agentpb.NewAgentServiceClient(a.conn)
	a.health = agentpb.NewHealthClient(a.conn)
}

func (a *agent) stop() {
	a.conn.Close()
	_ = a.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-a.exited:
	case <-time.After(callTimeout):
		_ = a.cmd.Process.Kill()
		<-a.exited
		a.t.Error("the agent did not end on SIGTERM")
	}
	if a.t.Failed() {
		a.t.Logf("log of the agent:\n%s", a.log)
	}
}

func (a *agent) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	a.t.Cleanup(cancel)
	return ctx
}

func makeRootfs(t *testing.T, dir string) string {
	t.Helper()
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "sleep", "echo", "id", "hostname", "stty", "ls", "head", "pwd", "env", "yes", "true"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// startSandbox starts an agent and creates the sandbox.
func startSandbox(t *testing.T) *agent {
	t.Helper()
	a := startAgent(t)
	_, err := a.CreateSandbox(a.ctx(), &agentpb.CreateSandboxRequest{
		SandboxId: "sandbox", Hostname: "example",
		Storages: []*agentpb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: "/run/kata-containers/sandbox/shm",
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// spec is a container's specification, as a shim sends it.
func (a *agent) spec(args ...string) *agentpb.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"}
	return &agentpb.Spec{
		Version: "1.1.0", Hostname: "example",
		Process: &agentpb.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, User: &agentpb.User{}, NoNewPrivileges: true,
			Capabilities: &agentpb.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []*agentpb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 512}},
		},
		Root: &agentpb.Root{Path: a.rootfs},
		Mounts: []*agentpb.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "bind", Source: "/run/kata-containers/sandbox/shm", Options: []string{"rbind"}},
		},
		Linux: &agentpb.Linux{
			CgroupsPath: "/kata-agent-test/" + strings.ReplaceAll(strings.Trim(filepath.Dir(a.socket), "/"), "/", "-"),
			Namespaces:  []*agentpb.LinuxNamespace{{Type: "mount"}, {Type: "ipc", Path: "/host"}, {Type: "uts"}, {Type: "network", Path: "/var/run/netns/x"}},
			MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
		},
	}
}

func (a *agent) create(id string, spec *agentpb.Spec) error {
	_, err := a.CreateContainer(a.ctx(), &agentpb.CreateContainerRequest{ContainerId: id, ExecId: id, OCI: spec})
	return err
}

// run creates and starts a container.
func (a *agent) run(id string, args ...string) {
	a.t.Helper()
	if err := a.create(id, a.spec(args...)); err != nil {
		a.t.Fatal(err)
	}
	a.start(id)
}

func (a *agent) start(id string) {
	a.t.Helper()
	if _, err := a.StartContainer(a.ctx(), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) exec(id, exec string, args ...string) {
	a.t.Helper()
	_, err := a.ExecProcess(a.ctx(), &agentpb.ExecProcessRequest{ContainerId: id, ExecId: exec, Process: &agentpb.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}}})
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) wait(id, exec string) int {
	a.t.Helper()
	resp, err := a.WaitProcess(a.ctx(), &agentpb.WaitProcessRequest{ContainerId: id, ExecId: exec})
	if err != nil {
		a.t.Fatal(err)
	}
	return int(resp.GetStatus())
}

func (a *agent) remove(id string) {
	a.t.Helper()
	if _, err := a.RemoveContainer(a.ctx(), &agentpb.RemoveContainerRequest{ContainerId: id}); err != nil {
		a.t.Fatal(err)
	}
}

type reader func(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error)

// readAll reads a stream to its end.
func (a *agent) readAll(read reader, id, exec string) string {
	a.t.Helper()
	var all strings.Builder
	for {
		resp, err := read(a.ctx(), &agentpb.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: 32 << 10})
		if err != nil {
			a.t.Fatal(err)
		}
		if len(resp.GetData()) == 0 {
			return all.String()
		}
		all.Write(resp.GetData())
	}
}

// readUntil reads stdout until it has shown text.
func (a *agent) readUntil(id, exec, text string) string {
	a.t.Helper()
	var all strings.Builder
	for !strings.Contains(all.String(), text) {
		resp, err := a.ReadStdout(a.ctx(), &agentpb.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: 32 << 10})
		if err != nil || len(resp.GetData()) == 0 {
			a.t.Fatalf("output %q ended before %q: %v", all.String(), text, err)
		}
		all.Write(resp.GetData())
	}
	return all.String()
}

func (a *agent) signal(id, exec string, sig unix.Signal) {
	a.t.Helper()
	if _, err := a.SignalProcess(a.ctx(), &agentpb.SignalProcessRequest{ContainerId: id, ExecId: exec, Signal: uint32(sig)}); err != nil {
		a.t.Fatal(err)
	}
}

// wantStatus checks the code and a part of the text of an error.
func wantStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error is %v, want code %v with %q", err, code, text)
	}
}

// inside reads a file as the agent's mount namespace has it.
func (a *agent) inside(path string) (string, error) {
	f, err := os.Open(filepath.Join("/proc", a.pid(), "root", path))
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

// pid is the process id of the isolated agent.
func (a *agent) pid() string {
	a.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", a.cmd.Process.Pid, a.cmd.Process.Pid))
	if err != nil {
		a.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}
