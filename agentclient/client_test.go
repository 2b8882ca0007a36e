package agentclient_test

import (
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
		t.Errorf("GetMetrics: %v, want Unimplemented", err)
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
