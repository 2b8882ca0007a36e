package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// follow copies a process's streams and returns its exit status when its output
// is delivered, or cannot be.
//
// Agents drop what is unread when they are asked for the exit, so the output is
// read to its end first; the exit is asked for beside it only where a reader has
// not taken anything for stallTimeout. Once the process is dead, or was sent a SIGKILL, a
// reader that does not read holds the exit back for drainTimeout at most.
func (p *Process) follow(stdio *Stdio) (int32, error) {
	s := p.container.sandbox
	streams := s.agent.Streams(p.container.id, p.guestID)
	reading, stopReading := context.WithCancel(s.life)
	defer stopReading()

	ended := make(chan ending, 2)
	beside := sync.OnceFunc(func() {
		go func() {
			if r, err := s.agent.WaitProcess(s.life, &agentpb.WaitProcessRequest{ContainerId: p.container.id, ExecId: p.guestID}); err == nil {
				ended <- ending{status: r.GetStatus()}
			}
		}()
	})
	var copies sync.WaitGroup
	if stdio.Stdout != nil {
		r := streams.Stdout(reading)
		copies.Go(func() { p.copyOut(stalling{stdio.Stdout, beside}, r) })
	}
	if stdio.Stderr != nil {
		r := streams.Stderr(reading)
		copies.Go(func() { p.copyOut(stalling{stdio.Stderr, beside}, r) })
	}
	copied := make(chan struct{})
	go func() {
		copies.Wait()
		close(copied)
	}()
	go p.copyIn(streams.Stdin(reading), stdio.Stdin, stdio.Terminal)
	go func() {
		status, err := streams.Wait(s.life)
		ended <- ending{status, err}
	}()

	dead := make(chan struct{})
	go func() {
		select {
		case <-copied:
			return
		case <-p.killed:
		case <-dead:
		case <-s.life.Done():
		}
		select {
		case <-copied:
		case <-time.After(drainTimeout):
			stopReading()
			_ = stdio.closeOutputs() // wakes a write that nobody takes
		}
	}()

	end := <-ended
	close(dead)
	<-copied
	stopReading()
	if err := stdio.close(); err != nil && !errors.Is(err, os.ErrClosed) {
		log.G(s.life).WithError(err).Debugf("%s: close its streams", p.name())
	}
	return end.status, end.err
}

// ending is what a wait for a process gave.
type ending struct {
	status int32
	err    error
}

// stalling tells when a write takes too long.
type stalling struct {
	io.Writer
	stalled func()
}

func (w stalling) Write(b []byte) (int, error) {
	t := time.AfterFunc(stallTimeout, w.stalled)
	defer t.Stop()
	return w.Writer.Write(b)
}

// copyOut copies until the process's output ends, or nobody takes it.
func (p *Process) copyOut(to stalling, from io.ReadCloser) {
	defer func() { _ = from.Close() }() // the exit is not to wait for what nobody takes
	buf := make([]byte, agentclient.ChunkSize)
	if _, err := io.CopyBuffer(to, onlyReader{from}, buf); err != nil && !errors.Is(err, os.ErrClosed) {
		log.G(p.container.sandbox.life).WithError(err).Debugf("%s: copy its output", p.name())
	}
}

// copyIn copies the process's input and ends it after End, or at once if there
// is none. A terminal's is never ended: agents would close its output with it.
func (p *Process) copyIn(to io.WriteCloser, from Input, terminal bool) {
	if from != nil {
		buf := make([]byte, agentclient.ChunkSize)
		if _, err := io.CopyBuffer(to, onlyReader{from}, buf); err != nil {
			return // the process has ended, or does not read
		}
	}
	if terminal {
		return
	}
	if err := to.Close(); err != nil {
		log.G(p.container.sandbox.life).WithError(err).Debugf("%s: close its standard input", p.name())
	}
}

// onlyReader hides the methods by which io.CopyBuffer would do without its buffer.
type onlyReader struct{ io.Reader }
