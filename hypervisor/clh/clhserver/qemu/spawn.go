package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner starts processes that die with this one, also when it is killed: the
// kernel sends a child its parent-death signal when the thread that forked it
// ends, so all are forked by one thread that lasts as long as the spawner.
//
// The thread has given up every capability but the one to read what belongs to
// other users, and the way back to them, for itself and what it starts.
type spawner struct {
	jobs  chan func()
	once  sync.Once
	quit  chan struct{}
	ended chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		dropPrivileges()
		for {
			select {
			case job := <-s.jobs:
				job()
			case <-s.quit:
				return
			}
		}
	}()
	return s
}

// close ends the thread and with it whatever it started and still runs.
func (s *spawner) close() {
	s.once.Do(func() { close(s.quit) })
	<-s.ended
}

// dropPrivileges works on the calling thread. Without the right to change the
// bounding set there is nothing in it that a child could gain.
func dropPrivileges() {
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if c != unix.CAP_DAC_READ_SEARCH {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// process is a child. What it writes to stderr is kept for the error that tells
// of its end.
type process struct {
	name   string
	cmd    *exec.Cmd
	stderr tail
	done   chan struct{}
	err    error // why it ended; valid once done is closed, nil: exit status 0
}

// start runs path with args, and files as its descriptors from 3 on.
func (s *spawner) start(path string, args []string, files []*os.File) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.name = filepath.Base(path)
	p.cmd.ExtraFiles = files
	p.cmd.Stderr = &p.stderr
	p.cmd.Stdout = &p.stderr
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a terminal's ^C is for us to act on
	}
	started := make(chan error, 1)
	select {
	case s.jobs <- func() { started <- p.cmd.Start() }:
	case <-s.quit:
		return nil, fmt.Errorf("start %s: %w", p.name, os.ErrProcessDone)
	}
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// kill ends the process and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill() // fails only if it has ended
	<-p.done
}

// failure says how the process ended, with its last words.
func (p *process) failure() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if words := p.stderr.String(); words != "" {
		return fmt.Errorf("%s ended: %s: %s", p.name, how, words)
	}
	return fmt.Errorf("%s ended: %s", p.name, how)
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const maxTail = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if extra := len(t.kept) - maxTail; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(b), nil
}

// String gives what was kept on one line, without the program's own name that
// QEMU puts before every message.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for line := range bytes.Lines(t.kept) {
		text := strings.TrimSpace(string(line))
		if text = strings.TrimPrefix(text, "qemu-system-x86_64: "); text != "" {
			lines = append(lines, text)
		}
	}
	return strings.Join(lines, "; ")
}
