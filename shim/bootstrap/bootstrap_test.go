package bootstrap

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
)

func TestListenReplacesASocketThatNobodyAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	address := "unix://" + path
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = listen(address); !errdefs.IsAlreadyExists(err) {
		t.Errorf("while one answers: %v", err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	l, err := listen(address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestPidFile(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]int{"4711": 4711, "4711\n": 4711, "": 0, "1": 0, "-5": 0, "x": 0} {
		if err := os.WriteFile(filepath.Join(dir, "shim.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := pidFile(dir); got != want {
			t.Errorf("%q gives %d, want %d", text, got, want)
		}
	}
	if got := pidFile(t.TempDir()); got != 0 {
		t.Errorf("none gives %d", got)
	}
}

func TestOtherProcessesAreNotTheServer(t *testing.T) {
	if isServer(os.Getpid(), "id") || isServer(os.Getppid(), "id") || isServer(1<<22+1, "id") {
		t.Error("a process that is not the server is taken for it")
	}
}

func TestStopOfABundleThatIsGone(t *testing.T) {
	reaped := 0
	m := &Manager{Runtime: "r", StateDir: t.TempDir(), ReapVM: func(context.Context, string, hypervisor.Process) error {
		reaped++
		return nil
	}}
	t.Chdir(t.TempDir())
	for range 2 {
		status, err := m.Stop(t.Context(), "id")
		if err != nil || status.ExitStatus != statusDeleted || time.Since(status.ExitedAt) > time.Minute {
			t.Errorf("%+v, %v", status, err)
		}
	}
	if reaped != 2 {
		t.Errorf("the machine was looked after %d times", reaped)
	}
}

func FuzzReadAnnotations(f *testing.F) {
	for _, s := range []string{`{"annotations":{"a":"b"}}`, `{}`, `null`, `{"annotations":[]}`, `[`} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		annotations, err := readAnnotations(dir)
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil && len(annotations) > 0 && !strings.Contains(strings.ToLower(string(text)), "annotations") {
			t.Errorf("%q has annotations %v", text, annotations)
		}
	})
}
