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
)

// follow copies a process's streams and returns its exit status when its output
// is delivered, or cannot be.
//
// Agents drop what is unread when they are asked for the exit, so the output is
// read to its end first. Once the process is dead, or was sent a SIGKILL, a
// reader that does not read holds the exit back for drainTimeout at most.
func (p *Process) follow(stdio *Stdio) (int32, error) {
	s := p.container.sandbox
	streams := s.agent.Streams(p.container.id, p.guestID)
	reading, stopReading := context.WithCancel(s.life)
	defer stopReading()

	var copies sync.WaitGroup
	if stdio.Stdout != nil {
		r := streams.Stdout(reading)
		copies.Go(func() { p.copyOut(stdio.Stdout, r) })
	}
	if stdio.Stderr != nil {
		r := streams.Stderr(reading)
		copies.Go(func() { p.copyOut(stdio.Stderr, r) })
	}
	copied := make(chan struct{})
	go func() {
		copies.Wait()
		close(copied)
	}()
	go p.copyIn(streams.Stdin(reading), stdio.Stdin, stdio.Terminal)

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

	status, err := streams.Wait(s.life)
	close(dead)
	<-copied
	stopReading()
	if cerr := stdio.close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		log.G(s.life).WithError(cerr).Debugf("%s: close its streams", p.name())
	}
	return status, err
}

// copyOut copies until the process's output ends, or nobody takes it.
func (p *Process) copyOut(to io.Writer, from io.Reader) {
	buf := make([]byte, agentclient.ChunkSize)
	if _, err := io.CopyBuffer(onlyWriter{to}, onlyReader{from}, buf); err != nil && !errors.Is(err, os.ErrClosed) {
		log.G(p.container.sandbox.life).WithError(err).Debugf("%s: copy its output", p.name())
	}
}

// copyIn copies the process's input and ends it after End, or at once if there
// is none. A terminal's is never ended: agents would close its output with it.
func (p *Process) copyIn(to io.WriteCloser, from Input, terminal bool) {
	if from != nil {
		buf := make([]byte, agentclient.ChunkSize)
		if _, err := io.CopyBuffer(onlyWriter{to}, onlyReader{from}, buf); err != nil {
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

// The two hide methods by which io.CopyBuffer would do without its buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
