package agentclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/internal/vsock"
)

var flavours = []agenttest.Flavour{agenttest.Ours, agenttest.Azl1, agenttest.Azl5, agenttest.Upstream}

// TestMain fails if a goroutine of a client or an agent outlives its test.
func TestMain(m *testing.M) {
	code := m.Run()
	for wait := time.Millisecond; code == 0; wait *= 2 {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "ttrpc.") && !strings.Contains(stacks, "agenttest.") {
			break
		}
		if wait > time.Second {
			fmt.Fprintln(os.Stderr, "goroutines are left:\n"+stacks)
			code = 1
		}
		time.Sleep(wait)
	}
	os.Exit(code)
}

// connect starts an agent and a client of it.
func connect(t *testing.T, f agenttest.Flavour, options ...agentclient.Option) (*agenttest.Agent, *agentclient.Client) {
	t.Helper()
	a := agenttest.Start(t, f)
	sock := filepath.Join(t.TempDir(), "agent.sock")
	if err := a.ListenPlain(sock); err != nil {
		t.Fatal(err)
	}
	c, err := agentclient.Connect(t.Context(), dialer(sock), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return a, c
}

func dialer(sock string) agentclient.Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}
}

// run starts a container whose init process is args.
func run(t *testing.T, c *agentclient.Client, id string, args ...string) *agentclient.Streams {
	t.Helper()
	ctx := t.Context()
	if err := c.CreateSandbox(ctx, &agentpb.CreateSandboxRequest{SandboxId: "sb"}); err != nil && !errdefs.IsFailedPrecondition(err) {
		t.Fatal(err)
	}
	if err := c.CreateContainer(ctx, &agentpb.CreateContainerRequest{
		ContainerId: id, ExecId: id,
		OCI: &agentpb.Spec{Process: &agentpb.Process{Args: args}, Root: &agentpb.Root{Path: "/r"}},
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	return c.Streams(id, id)
}

// collect copies both outputs to their ends and waits.
func collect(t *testing.T, s *agentclient.Streams) (stdout, stderr string, code int32) {
	t.Helper()
	type result struct {
		text string
		err  error
	}
	drain := func(r io.Reader) chan result {
		c := make(chan result, 1)
		go func() {
			b, err := io.ReadAll(r)
			c <- result{string(b), err}
		}()
		return c
	}
	out, errs := drain(s.Stdout(t.Context())), drain(s.Stderr(t.Context()))
	code, err := s.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o, e := <-out, <-errs
	if o.err != nil || e.err != nil {
		t.Fatalf("output ended with %v and %v", o.err, e.err)
	}
	return o.text, e.text, code
}

func TestConnectRetriesUntilTheAgentAnswers(t *testing.T) {
	a := agenttest.Start(t, agenttest.Ours)
	sock := filepath.Join(t.TempDir(), "clh.sock")
	attempts := 0
	c, err := agentclient.Connect(t.Context(), func(ctx context.Context) (net.Conn, error) {
		if attempts++; attempts == 3 {
			if err := a.ListenHybrid(sock); err != nil {
				t.Error(err)
			}
		}
		return vsock.Dial(ctx, sock, agenttest.AgentPort)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if attempts != 3 {
		t.Errorf("%d attempts, want 3", attempts)
	}
}

func TestConnectGivesUpWithTheLastError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := agentclient.Connect(ctx, func(context.Context) (net.Conn, error) { return nil, errors.New("no such guest") })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no such guest") {
		t.Errorf("Connect: %v, want the deadline and the dial's error", err)
	}
}

func TestErrorsKeepCodeAndText(t *testing.T) {
	a, c := connect(t, agenttest.Azl1)
	a.Fail("CreateSandbox", 1, status.Error(codes.PermissionDenied, "\"CreateSandboxRequest is blocked by policy: no\""))
	err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{})
	var e *agentclient.Error
	if !errors.As(err, &e) || e.Code != codes.PermissionDenied || !strings.Contains(e.Text, "blocked by policy: no") {
		t.Fatalf("CreateSandbox: %v, want the agent's error", err)
	}
	if !agentclient.IsDenied(err) {
		t.Errorf("%v is not a denial", err)
	}
	if _, err := c.GetMetrics(t.Context(), &agentpb.GetMetricsRequest{}); !agentclient.IsUnsupported(err) {
		t.Errorf("GetMetrics: %v, want not implemented", err)
	}
	if err := c.StartContainer(t.Context(), &agentpb.StartContainerRequest{ContainerId: "x"}); !agentclient.IsNotFound(err) {
		t.Errorf("StartContainer: %v, want not found", err)
	}
}

func TestLostAgent(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	a.DieAt("CreateSandbox", 1)
	err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{})
	if !errors.Is(err, agentclient.ErrGone) || !errdefs.IsUnavailable(err) {
		t.Errorf("CreateSandbox: %v, want ErrGone", err)
	}
	<-c.Done()
	if err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{}); !errors.Is(err, agentclient.ErrGone) {
		t.Errorf("CreateSandbox afterwards: %v, want ErrGone", err)
	}
	if err := c.DestroySandbox(t.Context(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Errorf("DestroySandbox of a dead agent: %v", err)
	}
}

func TestGarbledAnswer(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	a.Garble("CreateSandbox", 1)
	if err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{}); !errdefs.IsDataLoss(err) {
		t.Errorf("CreateSandbox: %v, want data loss", err)
	}
	if err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Errorf("CreateSandbox afterwards: %v", err)
	}
}

func TestHangingAgentMeetsTheLimit(t *testing.T) {
	a, c := connect(t, agenttest.Ours, agentclient.WithCreateTimeout(50*time.Millisecond))
	release := a.Hang("CreateContainer", 1)
	defer release()
	err := c.CreateContainer(t.Context(), &agentpb.CreateContainerRequest{ContainerId: "ab"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("CreateContainer: %v, want the deadline", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("caller has gone"))
	if err := c.StartContainer(ctx, &agentpb.StartContainerRequest{}); err == nil || !strings.Contains(err.Error(), "caller has gone") {
		t.Errorf("StartContainer: %v, want the caller's cause", err)
	}
}

func TestOutputOfEveryFlavour(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 20000) // more than a pipe holds
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			a, c := connect(t, f)
			a.Script([]string{"/app"}, agenttest.Script{Stdout: long, Stderr: "oh", Exit: 7})
			stdout, stderr, code := collect(t, run(t, c, "app", "/app"))
			if stdout != long || stderr != "oh" || code != 7 {
				t.Errorf("got %d bytes, %q, exit %d; want %d bytes, \"oh\", exit 7", len(stdout), stderr, code, len(long))
			}
		})
	}
}

func TestOutputHeldOpenAfterTheExit(t *testing.T) {
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			a, c := connect(t, f)
			a.Script([]string{"/app"}, agenttest.Script{Stdout: "x", Exit: 3, Hold: true, After: 50 * time.Millisecond})
			if stdout, _, code := collect(t, run(t, c, "app", "/app")); stdout != "x" || code != 3 {
				t.Errorf("got %q, exit %d", stdout, code)
			}
		})
	}
}

// A filter goes on writing after its input was closed; agents of the azl line
// answer the pending read as if it had ended.
func TestFilterOutlivesItsInput(t *testing.T) {
	text := strings.Repeat("line\n", 30000)
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			_, c := connect(t, f)
			s := run(t, c, "cat", "/bin/cat")
			stdin := s.Stdin(t.Context())
			go func() {
				if _, err := io.WriteString(stdin, text); err != nil {
					t.Errorf("write: %v", err)
				}
				if err := stdin.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			stdout, _, code := collect(t, s)
			if stdout != text || code != 0 {
				t.Errorf("got %d of %d bytes, exit %d", len(stdout), len(text), code)
			}
		})
	}
}

// The input of a process that reads nothing is closed while it runs on: the
// doubtful end must not hide what it writes later.
func TestOutputAfterADoubtfulEnd(t *testing.T) {
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			_, c := connect(t, f)
			s := run(t, c, "sleep", "/bin/sleep")
			if err := s.Stdin(t.Context()).Close(); err != nil {
				t.Fatal(err)
			}
			go func() {
				time.Sleep(300 * time.Millisecond)
				if err := c.SignalProcess(t.Context(), &agentpb.SignalProcessRequest{ContainerId: "sleep", Signal: 9}); err != nil {
					t.Error(err)
				}
			}()
			want := int32(137)
			if f == agenttest.Azl1 || f == agenttest.Azl5 {
				want = 9
			}
			if _, _, code := collect(t, s); code != want {
				t.Errorf("exit %d, want %d", code, want)
			}
		})
	}
}

func TestHiddenOutputDoesNotHinder(t *testing.T) {
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			a, c := connect(t, f)
			a.DenyRead()
			a.Script([]string{"/app"}, agenttest.Script{Stdout: strings.Repeat("secret", 1000), Exit: 4})
			stdout, _, code := collect(t, run(t, c, "app", "/app"))
			if stdout != "" || code != 4 {
				t.Errorf("got %q, exit %d", stdout, code)
			}
		})
	}
}

func TestStreamsEndWithTheAgent(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	s := run(t, c, "sleep", "/bin/sleep")
	out := s.Stdout(t.Context())
	go func() {
		time.Sleep(20 * time.Millisecond)
		a.Die()
	}()
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("read: %v, want the end", err)
	}
	if _, err := s.Wait(t.Context()); !errors.Is(err, agentclient.ErrGone) {
		t.Errorf("Wait: %v, want ErrGone", err)
	}
	if _, err := s.Stdin(t.Context()).Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write: %v, want a closed pipe", err)
	}
}

func TestCopySendsATree(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	if err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789"), 250_000)
	write := func(name string, data []byte, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "v/sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	write("v/big", big, 0o640)
	write("v/empty", nil, 0o600)
	write("v/sub/one", []byte("1"), 0o644)
	if err := os.Symlink("sub/one", filepath.Join(dir, "v/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("v", filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	const guest = "/run/kata-containers/shared/containers/c-0123456789abcdef-v"
	if err := c.Copy(t.Context(), filepath.Join(dir, "alias"), guest, agentclient.DefaultCopyLimits); err != nil {
		t.Fatal(err)
	}
	files := a.Files()
	for name, want := range map[string]struct {
		mode uint32
		data []byte
	}{
		"":         {0o040750, nil},
		"/big":     {0o100640, big},
		"/empty":   {0o100600, nil},
		"/link":    {0o120777, []byte("sub/one")},
		"/sub":     {0o040750, nil},
		"/sub/one": {0o100644, []byte("1")},
	} {
		f, ok := files[guest+name]
		if !ok || f.Mode != want.mode || !bytes.Equal(f.Data, want.data) {
			t.Errorf("%q: sent %v, mode %o, %d bytes; want mode %o, %d bytes", name, ok, f.Mode, len(f.Data), want.mode, len(want.data))
		}
	}
	if len(files) != 6 {
		t.Errorf("%d objects, want 6", len(files))
	}
	for _, call := range a.Calls() {
		if r, ok := call.Request.(*agentpb.CopyFileRequest); ok && (r.GetDirMode() != 2147484136 || len(r.GetData()) > 1<<20) {
			t.Errorf("%s: dir_mode %d, %d bytes", r.GetPath(), r.GetDirMode(), len(r.GetData()))
		}
	}
}

func TestCopyIsBounded(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	if err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, limits := range []agentclient.CopyLimits{{Bytes: 99, Files: 10}, {Bytes: 100, Files: 1}} {
		if err := c.Copy(t.Context(), dir, "/run/kata-containers/x", limits); !errdefs.IsResourceExhausted(err) {
			t.Errorf("Copy within %+v: %v, want resource exhausted", limits, err)
		}
	}
	if err := c.Copy(t.Context(), filepath.Join(dir, "none"), "/run/kata-containers/x", agentclient.DefaultCopyLimits); !errdefs.IsNotFound(err) {
		t.Errorf("Copy of nothing: %v, want not found", err)
	}
	a.Fail("CopyFile", 1, status.Error(codes.Internal, "disk full"))
	if err := c.Copy(t.Context(), dir, "/run/kata-containers/x", agentclient.DefaultCopyLimits); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Copy: %v, want the agent's error", err)
	}
}

func BenchmarkCall(b *testing.B) {
	a := agenttest.Start(b, agenttest.Ours)
	sock := filepath.Join(b.TempDir(), "agent.sock")
	if err := a.ListenPlain(sock); err != nil {
		b.Fatal(err)
	}
	c, err := agentclient.Connect(b.Context(), dialer(sock))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		if _, err := c.Version(b.Context(), &agentpb.CheckRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}
