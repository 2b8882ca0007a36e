package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// tells is a guest that says which link it was given last.
type tells struct{ links chan string }

func (c tells) Put(_ context.Context, o Object, _ io.Reader) error {
	if o.Target != "" {
		c.links <- o.Path + " -> " + o.Target
	}
	return nil
}

func (c tells) want(t *testing.T, link string) {
	t.Helper()
	select {
	case got := <-c.links:
		if got != link {
			t.Fatalf("the guest got %q, want %q", got, link)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("the guest never got %q", link)
	}
}

// swap lets a volume lead to a new revision.
func swap(t *testing.T, dir, revision string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Join(dir, revision), 0o755), os.Symlink(revision, dir+"/..data_tmp"), os.Rename(dir+"/..data_tmp", dir+"/..data"))
	if err != nil {
		t.Fatal(err)
	}
}

// The kernel drops events when nobody reads them; the swap of a quiet volume is
// among those that a busy one pushes out.
func TestLostEventsAreMadeUpFor(t *testing.T) {
	busy, quiet := t.TempDir(), t.TempDir()
	swap(t, busy, "..1")
	swap(t, quiet, "..1")
	guest := tells{make(chan string, 10)}
	s := New(t.Context(), guest, DefaultLimits)
	defer s.Close()
	for path, dir := range map[string]string{"/busy": busy, "/quiet": quiet} {
		if _, err := s.Add(t.Context(), dir, path); err != nil {
			t.Fatal(err)
		}
		guest.want(t, path+"/..data -> ..1")
	}
	data, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Skip(err)
	}
	limit := 0
	if _, err := fmt.Sscan(string(data), &limit); err != nil || limit > 1<<16 {
		t.Skipf("the host queues %d events: %v", limit, err)
	}
	s.watch.mu.Lock() // the reader of events waits
	for i := 0; i <= limit+1000; i++ {
		name := fmt.Sprintf("%s/..x%d", busy, i%2)
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Remove(name)); err != nil {
			t.Error(err)
			break
		}
	}
	swap(t, quiet, "..2")
	s.watch.mu.Unlock()
	guest.want(t, "/quiet/..data -> ..2")
}

func TestVolumesOfOneDirectoryShareItsWatch(t *testing.T) {
	dir := t.TempDir()
	swap(t, dir, "..1")
	guest := tells{make(chan string, 10)}
	s := New(t.Context(), guest, DefaultLimits)
	defer s.Close()
	for _, path := range []string{"/a", "/b"} {
		if _, err := s.Add(t.Context(), dir, path); err != nil {
			t.Fatal(err)
		}
		guest.want(t, path+"/..data -> ..1")
	}
	if len(s.watch.users) != 1 {
		t.Errorf("%d watches, want one", len(s.watch.users))
	}
	s.Remove("/a")
	swap(t, dir, "..2")
	guest.want(t, "/b/..data -> ..2")
	s.Remove("/b")
	if len(s.watch.users)+len(s.watch.watches) != 0 {
		t.Errorf("watches are left: %v", s.watch.users)
	}
}

const inNamespace = "KATA_CC_TEST_NO_WATCHES"

// A user namespace has inotify limits of its own, which the test sets to none.
func TestHostWithoutWatchesIsPolled(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		withoutWatches(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHostWithoutWatchesIsPolled$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("no user namespace: %v", err)
	}
	if err != nil || strings.Contains(string(out), "--- SKIP") {
		if err == nil {
			t.Skipf("in a user namespace: %s", out)
		}
		t.Errorf("%v:\n%s", err, out)
	}
}

func withoutWatches(t *testing.T) {
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0); err != nil {
		t.Skip(err)
	}
	var said bytes.Buffer
	logrus.SetOutput(&said)
	dir := t.TempDir()
	swap(t, dir, "..1")
	guest := tells{make(chan string, 10)}
	s := New(t.Context(), guest, DefaultLimits)
	if _, err := s.Add(t.Context(), dir, "/v"); err != nil {
		t.Fatal(err)
	}
	guest.want(t, "/v/..data -> ..1")
	swap(t, dir, "..2")
	guest.want(t, "/v/..data -> ..2")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "fs.inotify.max_user_instances") || !strings.Contains(said.String(), dir) {
		t.Errorf("the log does not say what is missing: %s", said.String())
	}
}
