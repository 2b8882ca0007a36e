package agenttest

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// container is a container of the agent; its init process has its own id.
type container struct {
	id        string
	request   *agentpb.CreateContainerRequest
	started   bool
	processes map[string]*process
}

func (c *container) process(exec string) *process {
	if exec == "" {
		exec = c.id
	}
	return c.processes[exec]
}

func (c *container) kill() {
	for _, p := range c.processes {
		p.signal(uint32(unix.SIGKILL))
		p.stdout.close()
		p.stderr.close()
	}
}

// process runs a script.
type process struct {
	flavour        Flavour
	script         Script
	terminal       bool
	stdin          *pipe
	stdout, stderr *pipe

	once   sync.Once
	exited chan struct{}
	status int32
}

func newProcess(f Flavour, s Script, terminal bool) *process {
	return &process{
		flavour: f, script: s, terminal: terminal,
		stdin: newPipe(), stdout: newPipe(), stderr: newPipe(), exited: make(chan struct{}),
	}
}

// run plays the script to its end.
func (p *process) run() {
	p.stdout.write([]byte(p.script.Stdout))
	if p.terminal {
		p.stdout.write([]byte(p.script.Stderr))
	} else {
		p.stderr.write([]byte(p.script.Stderr))
	}
	if p.script.Echo {
		p.echo()
	}
	if p.script.Block {
		<-p.exited
		return
	}
	if p.script.After > 0 {
		select {
		case <-time.After(p.script.After):
		case <-p.exited:
		}
	}
	p.exit(p.script.Exit)
}

func (p *process) echo() {
	for {
		data, end := p.stdin.read(context.Background(), pipeSize) // exit closes it
		if end != hasData {
			return
		}
		p.stdout.write(data)
	}
}

// exit ends the process; only the first exit counts.
func (p *process) exit(status int32) (first bool) {
	p.once.Do(func() {
		first = true
		p.status = status
		if p.script.Hold {
			p.stdout.interrupt()
			p.stderr.interrupt()
		} else {
			p.stdout.close()
			p.stderr.close()
		}
		p.stdin.close()
		close(p.exited)
	})
	return first
}

// signal does what a signal does to a process that handles none.
func (p *process) signal(n uint32) {
	if slices.Contains(p.script.Ignore, n) && n != uint32(unix.SIGKILL) {
		return
	}
	switch unix.Signal(n) {
	case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, 0:
		return
	}
	if p.flavour.isAzl() {
		p.exit(int32(n))
	} else {
		p.exit(128 + int32(n))
	}
}

// pipeSize is what a pipe holds before its writer blocks, in bytes.
const pipeSize = 64 << 10

// How a read of a pipe ends.
type readEnd int

const (
	hasData readEnd = iota
	atEnd           // the writer has closed
	woken           // interrupted while it had nothing
	gaveUp          // the context ended
)

// pipe is a pipe in memory whose pending reads can be interrupted.
type pipe struct {
	mu         sync.Mutex
	changed    chan struct{}
	data       []byte
	closed     bool
	interrupts int
}

func newPipe() *pipe { return &pipe{changed: make(chan struct{})} }

func (p *pipe) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// write appends data as there is room; a closed pipe takes nothing.
func (p *pipe) write(data []byte) (n int, ok bool) {
	for len(data) > 0 {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return n, false
		}
		k := min(len(data), pipeSize-len(p.data))
		p.data = append(p.data, data[:k]...)
		data, n = data[k:], n+k
		changed := p.changed
		if k > 0 {
			p.tell()
			p.mu.Unlock()
			continue
		}
		p.mu.Unlock()
		<-changed
	}
	return n, true
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		p.tell()
	}
}

// interrupt wakes the reads that are pending.
func (p *pipe) interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.interrupts++
	p.tell()
}

// read waits for data, at most n bytes of it.
func (p *pipe) read(ctx context.Context, n int) ([]byte, readEnd) {
	p.mu.Lock()
	interrupts := p.interrupts
	for {
		if k := min(n, len(p.data)); k > 0 {
			data := slices.Clone(p.data[:k])
			p.data = p.data[k:]
			p.tell()
			p.mu.Unlock()
			return data, hasData
		}
		if p.closed {
			p.mu.Unlock()
			return nil, atEnd
		}
		if p.interrupts != interrupts {
			p.mu.Unlock()
			return nil, woken
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, gaveUp
		}
		p.mu.Lock()
	}
}
