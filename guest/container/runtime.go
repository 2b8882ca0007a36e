// Package container runs containers by an OCI runtime (crun) and keeps their
// processes.
//
//	          Start              init exits
//	Created ─────────▶ Running ─────────────▶ Stopped
//	   │               │  ▲  │                   │
//	   │         Pause ▼  │ Resume              │ Remove
//	   │              Paused │                   ▼
//	   └──────── Remove ─────┴────────────▶ Removing ──▶ gone
//
// A Created container can be paused too, and is Created again when resumed.
//
// The operations in -ing exclude each other without a lock: who finds the
// container in another state than it needs is refused.
package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/process"
	"github.com/kata-cc/kata-cc/guest/reaper"
)

// Runtime calls the OCI runtime. The package go-runc must have the reaper as its
// monitor.
type Runtime struct {
	Command  string // the OCI runtime's program
	Root     string // where it keeps its state
	PipeSize int    // bytes a stdio pipe holds; 0 is the kernel's choice
	Reaper   *reaper.Reaper
}

// call runs f on the OCI runtime with a log of its own, and says what the log
// says if f fails.
func (r *Runtime) call(f func(*runc.Runc) error) error {
	log, err := os.CreateTemp(r.Root, "log-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(log.Name()) }()
	defer log.Close()
	err = f(&runc.Runc{
		Command: r.Command, Root: filepath.Join(r.Root, "state"), Log: log.Name(), LogFormat: runc.JSON,
		ExtraArgs: []string{"--cgroup-manager=cgroupfs"},
	})
	if err == nil {
		return nil
	}
	data, _ := os.ReadFile(log.Name())
	if said := logged(data); said != "" {
		return &runtimeError{said: said, err: err}
	}
	return err
}

// runtimeError is a failure of the OCI runtime in its own words.
type runtimeError struct {
	said string
	err  error
}

func (e *runtimeError) Error() string { return "crun: " + e.said }
func (e *runtimeError) Unwrap() error { return e.err }

// logged is the messages in a log of the OCI runtime, lines of JSON.
func logged(data []byte) string {
	var all []string
	for line := range bytes.Lines(data) {
		var entry struct{ Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg != "" {
			all = append(all, entry.Msg)
		}
	}
	return strings.Join(all, "; ")
}

// started is a process which the OCI runtime has started and detached from.
type started struct {
	child *reaper.Child
	stdio *process.Stdio
}

// launch starts a process by run, which is given the streams and the file for
// the process's id. On error nothing stays.
func (r *Runtime) launch(terminal bool, run func(c *runc.Runc, stdio *process.Stdio, pidFile string) error) (_ started, err error) {
	var stdio *process.Stdio
	if terminal {
		stdio, err = process.NewTerminal()
	} else {
		stdio, err = process.NewPipes(r.PipeSize)
	}
	if err != nil {
		return started{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stdio.Close())
		}
	}()
	dir, err := os.MkdirTemp(r.Root, "launch-")
	if err != nil {
		return started{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	pidFile := filepath.Join(dir, "pid")

	// The process may have ended before its id is known.
	expected := r.Reaper.Expect()
	defer expected.Close()
	if err = r.call(func(c *runc.Runc) error { return run(c, stdio, pidFile) }); err != nil {
		return started{}, err
	}
	pid, err := runc.ReadPidFile(pidFile)
	if err != nil {
		return started{}, fmt.Errorf("read the id of a started process: %w", err)
	}
	child, err := expected.Adopt(pid)
	if err != nil {
		return started{}, err
	}
	if err = stdio.ReceiveTerminal(); err != nil {
		return started{}, errors.Join(err, child.Signal(unix.SIGKILL))
	}
	return started{child: child, stdio: stdio}, nil
}

// streams is the streams as the OCI runtime takes them: none for a terminal.
func streams(s *process.Stdio) runc.IO {
	if s.ConsoleSocket() != nil {
		return nil
	}
	return s
}

// delete makes the OCI runtime forget a container, whatever became of it.
func (r *Runtime) delete(ctx context.Context, id string) error {
	if _, err := os.Stat(filepath.Join(r.Root, "state", id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return r.call(func(c *runc.Runc) error { return c.Delete(ctx, id, &runc.DeleteOpts{Force: true}) })
}

// missingProgram improves on an error of the OCI runtime about a program that
// is not in the container.
func missingProgram(err error, rootfs string, p *specs.Process) error {
	var said *runtimeError
	if !errors.As(err, &said) || len(p.Args) == 0 || !strings.Contains(said.said, p.Args[0]) || inRootfs(rootfs, p) {
		return err
	}
	return fmt.Errorf("the file %s was not found: %w: %w", p.Args[0], err, errdefs.ErrNotFound)
}

// inRootfs says whether the program of p is a file below rootfs; what is mounted
// inside the container is not seen.
func inRootfs(rootfs string, p *specs.Process) bool {
	dir, err := os.Open(rootfs)
	if err != nil {
		return true // cannot know
	}
	defer dir.Close()
	for _, path := range candidates(p) {
		how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		if fd, err := unix.Openat2(int(dir.Fd()), path, how); err == nil {
			unix.Close(fd)
			return true
		}
	}
	return false
}

// candidates is where the program of p may be, inside the container.
func candidates(p *specs.Process) []string {
	program := p.Args[0]
	if strings.Contains(program, "/") {
		if !filepath.IsAbs(program) {
			program = filepath.Join(p.Cwd, program)
		}
		return []string{program}
	}
	var paths []string
	for _, e := range p.Env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			for dir := range strings.SplitSeq(path, ":") {
				paths = append(paths, filepath.Join("/", dir, program))
			}
		}
	}
	return paths
}
