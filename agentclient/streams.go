package agentclient

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// ChunkSize is the most that one read or write of a stream carries, in bytes.
const ChunkSize = 32 << 10

// hiddenSize is what a read asks for after an empty answer, in bytes: a whole
// pipe. The answer may have been output that a policy hides, and the process
// waits for the pipe to be emptied all the same.
const hiddenSize = 64 << 10

// Streams is the standard input and output of one process in the guest. Agents
// tell the end of output in different ways, and lose what is still in the pipe
// once WaitProcess has answered; Streams hides both.
//
// Use: open the outputs, copy each to its end, and call Wait, all at once.
type Streams struct {
	client    *Client
	container string
	exec      string

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when anything below changes
	outputs []*output
	closes  int  // CloseStdin requests sent
	exited  bool // WaitProcess has answered
}

// Streams gives the streams of a process; exec is the container's id for its
// init process.
func (c *Client) Streams(container, exec string) *Streams {
	return &Streams{client: c, container: container, exec: exec, changed: make(chan struct{})}
}

// Stdout opens the process's standard output. Reads end with io.EOF when the
// process's output has, and fail if ctx ends. A reader that stops before the end
// closes, so that Wait does not wait for it. Call it once, before Wait.
func (s *Streams) Stdout(ctx context.Context) io.ReadCloser {
	return s.open(ctx, s.client.ReadStdout)
}

// Stderr opens the process's standard error. A process with a terminal has none.
func (s *Streams) Stderr(ctx context.Context) io.ReadCloser {
	return s.open(ctx, s.client.ReadStderr)
}

// Stdin opens the process's standard input; Close sends CloseStdin.
func (s *Streams) Stdin(ctx context.Context) io.WriteCloser { return &input{ctx: ctx, streams: s} }

// Wait returns the process's exit status once its output has been read to the
// end. It calls WaitProcess earlier only where an agent does not tell the end of
// output by itself, when nothing is left to read.
func (s *Streams) Wait(ctx context.Context) (int32, error) {
	if err := s.settle(ctx); err != nil {
		return 0, err
	}
	resp, err := s.client.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: s.container, ExecId: s.exec})
	s.update(func() { s.exited = true })
	if err != nil {
		return 0, err
	}
	return resp.GetStatus(), nil
}

// settle blocks until no output has anything to read.
func (s *Streams) settle(ctx context.Context) error {
	for {
		s.mu.Lock()
		changed, busy := s.changed, false
		for _, o := range s.outputs {
			busy = busy || o.state == flowing
		}
		s.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Streams) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.tell()
}

// tell wakes all who wait for a change; the lock is held.
func (s *Streams) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Streams) open(ctx context.Context, read readFunc) io.ReadCloser {
	o := &output{ctx: ctx, streams: s, read: read}
	s.update(func() { s.outputs = append(s.outputs, o) })
	return o
}

type readFunc func(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error)

// The states of an output. Only a flowing one holds Wait back.
const (
	flowing = iota
	idle    // the last answer was empty, or is overdue after an end in doubt
	ended
)

// output is one output stream, read by one goroutine. state is guarded by the
// lock of streams.
type output struct {
	ctx     context.Context //nolint:containedctx // an io.Reader has no other place for it
	streams *Streams
	read    readFunc

	state  int
	rest   []byte // read, but not yet taken
	closes int    // CloseStdin requests already blamed for an end in doubt
	pause  time.Duration
}

// Read implements io.Reader.
func (o *output) Read(p []byte) (int, error) {
	for len(o.rest) == 0 {
		if o.current() == ended {
			return 0, io.EOF
		}
		if err := o.fetch(); err != nil {
			o.enter(ended)
			return 0, err
		}
	}
	n := copy(p, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// Close implements io.Closer: nothing more will be read.
func (o *output) Close() error {
	o.enter(ended)
	return nil
}

// fetch makes one request. It ends the stream, fills rest, or leaves both for
// another round.
func (o *output) fetch() error {
	s := o.streams
	s.mu.Lock()
	exited, closes := s.exited, s.closes // before the request: what it answers is older than what comes now
	s.mu.Unlock()

	var overdue *time.Timer
	if o.closes > 0 && o.current() == flowing {
		overdue = time.AfterFunc(rereadGrace, func() { o.enter(idle) })
	}
	size := uint32(ChunkSize)
	if o.pause > 0 {
		size = hiddenSize
	}
	resp, err := o.read(o.ctx, &agentpb.ReadStreamRequest{ContainerId: s.container, ExecId: s.exec, Len: size})
	if overdue != nil {
		overdue.Stop()
	}
	switch {
	case err == nil && len(resp.GetData()) > 0:
		o.rest, o.pause = resp.GetData(), 0
		o.enter(flowing)
		return nil
	case err == nil && exited:
		return io.EOF
	case err == nil:
		o.enter(idle)
		return o.backOff()
	case endInDoubt(err) && o.blame(closes):
		return nil
	case IsStreamEnd(err):
		return io.EOF
	}
	return err
}

// blame reports whether an end in doubt may be the work of a CloseStdin that has
// not yet been blamed for one.
func (o *output) blame(before int) bool {
	s := o.streams
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.closes >= max(s.closes, before) {
		return false
	}
	o.closes++
	return true
}

func (o *output) current() int {
	o.streams.mu.Lock()
	defer o.streams.mu.Unlock()
	return o.state
}

// enter changes the state and tells Wait, but not if nothing changes: two idle
// outputs would wake each other without end.
func (o *output) enter(state int) {
	o.streams.mu.Lock()
	defer o.streams.mu.Unlock()
	if o.state != state && o.state != ended {
		o.state = state
		o.streams.tell()
	}
}

// backOff pauses after an empty answer, until the process has ended at most.
func (o *output) backOff() error {
	o.pause = min(max(2*o.pause, rereadMin), rereadMax)
	o.streams.mu.Lock()
	changed := o.streams.changed
	o.streams.mu.Unlock()
	select {
	case <-time.After(o.pause):
	case <-changed:
	case <-o.ctx.Done():
		return context.Cause(o.ctx)
	}
	return nil
}

type input struct {
	ctx     context.Context //nolint:containedctx // an io.Writer has no other place for it
	streams *Streams
}

// Write implements io.Writer. It blocks while the process does not read. A
// process that has closed its input gives io.ErrClosedPipe.
func (i *input) Write(p []byte) (int, error) {
	s := i.streams
	for n := 0; n < len(p); {
		end := min(len(p), n+ChunkSize)
		resp, err := s.client.WriteStdin(i.ctx, &agentpb.WriteStreamRequest{ContainerId: s.container, ExecId: s.exec, Data: p[n:end]})
		if IsStreamEnd(err) {
			return n, errors.Join(io.ErrClosedPipe, err)
		}
		if err != nil {
			return n, err
		}
		if got := int(resp.GetLen()); got == 0 || got > end-n {
			return n, io.ErrShortWrite
		}
		n += int(resp.GetLen())
	}
	return len(p), nil
}

// Close implements io.Closer. A process that is gone has no input to close.
func (i *input) Close() error {
	s := i.streams
	s.update(func() { s.closes++ }) // before the request: a read may answer sooner than it
	err := s.client.CloseStdin(i.ctx, &agentpb.CloseStdinRequest{ContainerId: s.container, ExecId: s.exec})
	if IsNotFound(err) {
		return nil
	}
	return err
}
