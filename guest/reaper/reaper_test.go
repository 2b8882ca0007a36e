package reaper

import (
	"bytes"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func start(t *testing.T) *Reaper {
	t.Helper()
	r := New()
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEveryChildIsCollectedOnce(t *testing.T) {
	r := start(t)
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			var out bytes.Buffer
			cmd := exec.Command("/bin/sh", "-c", "echo $$; exit "+strconv.Itoa(i))
			cmd.Stdout = &out
			c, err := r.StartChild(cmd)
			if err != nil {
				t.Error(err)
				return
			}
			<-c.Done()
			Finish(cmd)
			if c.Status() != i || strings.TrimSpace(out.String()) != strconv.Itoa(c.Pid) {
				t.Errorf("process %d: status %d, want %d; output %q", c.Pid, c.Status(), i, out.String())
			}
			if err := c.Signal(unix.SIGTERM); !errdefs.IsNotFound(err) {
				t.Errorf("signal to a process that has ended gives %v", err)
			}
		})
	}
	wait.Wait()
	if len(r.children) != 0 || len(r.early) != 0 || r.expected != 0 {
		t.Errorf("children %v, early %v, expected %d", r.children, r.early, r.expected)
	}
}

func TestOrphanIsAdopted(t *testing.T) {
	r := start(t)
	e := r.Expect()
	defer e.Close()
	// The shell ends at once; what it leaves becomes our child.
	cmd := exec.Command("/bin/sh", "-c", "sleep 1000 >/dev/null & echo $!")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.StartChild(cmd)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 32)
	n, _ := out.Read(buf)
	<-c.Done()
	Finish(cmd)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := e.Adopt(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := orphan.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-orphan.Done()
	if got := orphan.Status(); got != 137 {
		t.Errorf("status is %d, want 137", got)
	}
}

func TestExitBeforeAdoption(t *testing.T) {
	r := start(t)
	e := r.Expect()
	cmd := exec.Command("/bin/sh", "-c", "exit 9")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for ended := false; !ended; {
		r.mu.Lock()
		_, ended = r.early[pid]
		r.mu.Unlock()
	}
	c, err := e.Adopt(pid)
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if c.Status() != 9 {
		t.Errorf("status is %d", c.Status())
	}
	e.Close()
	e.Close() // harmless
	if r.expected != 0 {
		t.Errorf("%d expectations are open", r.expected)
	}
	if _, err := r.StartChild(exec.Command("/no/such/program")); err == nil {
		t.Error("a missing program was started")
	}
}
