package process

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/guest/reaper"
)

// start starts a shell script as a process with pipes.
func start(t *testing.T, size int, script string) *Process {
	t.Helper()
	r := reaper.New()
	ctx, stop := context.WithCancel(context.Background()) // the test's own ends before its clean-up
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	stdio, err := NewPipes(size)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	stdio.Set(cmd)
	child, err := r.StartChild(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := stdio.CloseAfterStart(); err != nil {
		t.Fatal(err)
	}
	p := New("p", child, stdio)
	t.Cleanup(func() {
		_ = p.Signal(9)
		<-p.Done()
		p.Close()
		reaper.Finish(cmd)
		stop()
	})
	return p
}

func streams(t *testing.T, p *Process) (*Input, *Output) {
	t.Helper()
	in, err1 := p.Stdin()
	out, err2 := p.Stdout()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return in, out
}

func readAll(t *testing.T, o *Output) string {
	t.Helper()
	var all strings.Builder
	for {
		data, err := o.Read(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) == 0 {
			return all.String()
		}
		all.Write(data)
	}
}

func TestWriteWaitsForTheReader(t *testing.T) {
	p := start(t, 4096, "sleep 0.1; cat | wc -c")
	in, out := streams(t, p)
	if n, err := in.Write(t.Context(), make([]byte, 100_000)); n != 100_000 || err != nil {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := in.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := in.Write(t.Context(), []byte("x")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("write after close: %v", err)
	}
	if got := strings.TrimSpace(readAll(t, out)); got != "100000" {
		t.Errorf("the process got %s bytes", got)
	}
}

func TestWriterCanLeave(t *testing.T) {
	p := start(t, 4096, "sleep 1000")
	in, _ := streams(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	n, err := in.Write(ctx, make([]byte, 100_000))
	if !errors.Is(err, context.DeadlineExceeded) || n == 0 || n == 100_000 {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
}

// Who goes on writing to the streams of a process that has ended does not keep
// its exit back for ever, and none of its own output is lost by that.
func TestOthersMayWriteForAWhile(t *testing.T) {
	const own = 60_000 // bytes, which a pipe holds
	p := start(t, 0, "head -c 60000 /dev/zero | tr '\\0' x; while :; do echo on; sleep 0.01; done & exit 0")
	_, out := streams(t, p)
	out.linger = 50 * time.Millisecond
	<-p.Done()
	time.Sleep(2 * out.linger) // a reader that is late
	if got := readAll(t, out); strings.Count(got, "x") != own {
		t.Errorf("%d of %d bytes arrived", strings.Count(got, "x"), own)
	}
}

func TestReadersTakeTurns(t *testing.T) {
	p := start(t, 0, "cat")
	in, out := streams(t, p)
	got := make(chan string, 2)
	for range cap(got) {
		go func() {
			data, _ := out.Read(t.Context(), 4)
			got <- string(data)
		}()
	}
	if _, err := in.Write(t.Context(), []byte("abcdefgh")); err != nil {
		t.Fatal(err)
	}
	if a, b := <-got, <-got; a+b != "abcdefgh" && b+a != "abcdefgh" {
		t.Errorf("readers got %q and %q", a, b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := out.Read(ctx, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestReaderThatLeavesTakesNoOutput(t *testing.T) {
	p := start(t, 0, "cat")
	in, out := streams(t, p)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if data, err := out.Read(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read %q, %v", data, err)
		}
		cancel()
		if _, err := in.Write(t.Context(), []byte("kept")); err != nil {
			t.Fatal(err)
		}
		if data, err := out.Read(t.Context(), 10); string(data) != "kept" || err != nil {
			t.Errorf("read %q, %v", data, err)
		}
	}
}

func TestCloseWakesTheReader(t *testing.T) {
	p := start(t, 0, "sleep 1000")
	_, out := streams(t, p)
	ended := make(chan error)
	go func() {
		_, err := out.Read(t.Context(), 1)
		ended <- err
	}()
	p.Close()
	if err := <-ended; err != nil {
		t.Errorf("error is %v", err)
	}
}

func TestOneReadIsBounded(t *testing.T) {
	p := start(t, 1<<20, "head -c 1000000 /dev/zero")
	_, out := streams(t, p)
	<-p.Done()
	data, err := out.Read(t.Context(), 1<<30)
	if err != nil || len(data) > MaxRead {
		t.Errorf("one read gave %d bytes, %v", len(data), err)
	}
	if rest := readAll(t, out); len(data)+len(rest) != 1000000 {
		t.Errorf("got %d bytes", len(data)+len(rest))
	}
}

func TestResizeNeedsATerminal(t *testing.T) {
	p := start(t, 0, "true")
	if err := p.Resize(1, 1); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no tty") {
		t.Errorf("error is %v", err)
	}
	if status, err := p.Wait(t.Context()); status != 0 || err != nil {
		t.Errorf("status is %d, %v", status, err)
	}
}

func TestPipesLeaveNoDescriptor(t *testing.T) {
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := count()
	for range 10 {
		stdio, err := NewPipes(0)
		if err != nil {
			t.Fatal(err)
		}
		if err := stdio.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func BenchmarkRead(b *testing.B) {
	stdio, err := NewPipes(1 << 20)
	if err != nil {
		b.Fatal(err)
	}
	defer stdio.Close()
	go func() {
		chunk := make([]byte, 32<<10)
		for {
			if _, err := stdio.theirs[1].Write(chunk); err != nil {
				return
			}
		}
	}()
	b.SetBytes(32 << 10)
	for b.Loop() {
		if _, err := stdio.out.Read(b.Context(), 32<<10); err != nil && err != io.EOF {
			b.Fatal(err)
		}
	}
}
