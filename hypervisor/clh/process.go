package clh

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
)

const (
	maxConsole = 64 << 10 // bytes kept of the guest's console
	maxStderr  = 16 << 10 // bytes kept of what the VMM says
)

// process is the VMM on the host, from its start to its end.
type process struct {
	id      hypervisor.Process
	cmd     *exec.Cmd
	console tail // standard output, which is the guest's serial console
	stderr  tail
	events  *os.File // read end of the event stream
	outputs []*os.File
	drained chan struct{}  // closed when the outputs have been read to their end
	exited  chan struct{}  // closed once state is set
	state   string         // "exit status 0", "signal: killed"
	signal  syscall.Signal // that ended it, 0: none
	at      time.Time
}

// start runs the VMM at path. The files follow standard error in its descriptor
// table, from 3 on; the write end of the event stream comes last of them.
func start(path string, args []string, netns string, where birthplace, keep []uintptr, listener *os.File) (_ *process, err error) {
	p := &process{console: tail{max: maxConsole}, stderr: tail{max: maxStderr}, drained: make(chan struct{}), exited: make(chan struct{})}
	var theirs, ours []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			for _, f := range ours {
				f.Close()
			}
		}
	}()
	for range 3 {
		r, w, perr := os.Pipe()
		if perr != nil {
			return nil, fmt.Errorf("make a pipe: %w", perr)
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	p.outputs, p.events = ours[:2], ours[2]
	command := func() *exec.Cmd {
		cmd := exec.Command(path, args...)
		cmd.Stdout, cmd.Stderr = theirs[0], theirs[1]
		cmd.ExtraFiles = []*os.File{listener, theirs[2]}
		cmd.Dir = "/"
		// A group of its own: signals to the shim's group are not for the VMM.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return cmd
	}
	p.cmd = command()
	where.tell(p.cmd.SysProcAttr)
	err = confined(netns, where, keep, p.cmd.Start)
	if where.unknown(err) {
		p.cmd = command()
		err = confined(netns, where, keep, p.cmd.Start)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p.id = hypervisor.Process{PID: p.cmd.Process.Pid}
	// Not reaped yet, so the entry is there even if the VMM is not any more.
	if p.id.StartTime, err = startTime(p.id.PID); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", path, err), p.cmd.Process.Kill(), p.cmd.Wait())
	}
	if err = raiseFiles(p.id.PID); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, errors.Join(fmt.Errorf("start %s: %w", path, err), p.cmd.Process.Kill(), p.cmd.Wait())
	}
	err = nil
	go p.read()
	go p.wait()
	return p, nil
}

// wait is the only writer of p.state and p.at.
func (p *process) wait() {
	err := p.cmd.Wait()
	p.at = time.Now()
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Release() // what Wait does when it is told the status
	}
	switch {
	case p.cmd.ProcessState != nil:
		p.state = p.cmd.ProcessState.String()
		if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			p.signal = ws.Signal()
		}
	case errors.Is(err, syscall.ECHILD): // somebody reaps all children of this process
		p.state = "exit status unknown"
	default:
		p.state = fmt.Sprintf("exit status unknown: %v", err)
	}
	close(p.exited)
}

// kill ends the process at once. It may have ended already.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// read keeps what the VMM and its guest print, so that neither is ever held up.
func (p *process) read() {
	var both sync.WaitGroup
	both.Go(func() { copyTo(&p.console, p.outputs[0]) })
	both.Go(func() { copyTo(&p.stderr, p.outputs[1]) })
	both.Wait()
	close(p.drained)
}

// drain waits a moment for what was printed last.
func (p *process) drain() {
	select {
	case <-p.drained:
	case <-time.After(drainTimeout):
	}
}

// close gives back the descriptors and ends the readers.
func (p *process) close() {
	p.drain()
	for _, f := range p.outputs {
		f.Close()
	}
	p.events.Close()
	<-p.drained
}

func copyTo(t *tail, r *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		_, _ = t.Write(buf[:n]) // into memory
		if err != nil {
			return
		}
	}
}
