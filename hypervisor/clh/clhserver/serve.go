// Package clhserver serves Cloud Hypervisor's REST API with the behaviour that
// clients of the original see, over a machine that somebody else provides.
//
// Life of a machine, as vm.info tells it:
//
//	(none) ──vm.create──> Created ──vm.boot──> Running <──pause, resume──> Paused
//	   ^                   │   ^                  │                          │
//	   └────vm.delete──────┘   └──────────────vm.shutdown────────────────────┘
//
// All operations are carried out one after the other, whichever of at most ten
// connections they come from. What happens by itself (a device let go of, the
// guest's reboot or power-off) is told by the event monitor's stream.
package clhserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// maxConns is how many connections may be open at once.
const maxConns = 10

// Config is what a server needs.
type Config struct {
	// Listener of the API; Serve closes it, and leaves the socket's path alone.
	Listener *net.UnixListener
	// Backend makes the machine behind the API.
	Backend NewBackend
	// EventMonitor gets the event stream; nil if nobody wants it. Serve does
	// not close it.
	EventMonitor io.Writer
	// Stdout is where consoles of mode Tty write; nil discards.
	Stdout io.Writer
	// Profile is the version to behave like; the zero value is 40.0.0.
	Profile Profile
	// Intercept, if set, is called for every operation in place of it. Tests
	// inject faults here.
	Intercept Interceptor
}

// Call is an operation about to be carried out, nothing else running.
type Call struct {
	Endpoint string // "vm.add-disk"
	Count    int    // how many calls of this endpoint there have been, this one included
	Body     []byte
}

// Response is the answer to a call.
type Response struct {
	Status int
	Body   []byte
	Drop   bool // close the connection instead of answering
}

// Interceptor may call serve once, or not at all, and decides on the answer.
// ctx ends with the server.
type Interceptor func(ctx context.Context, c Call, serve func() Response) Response

// server is a VMM's API. What its parts do is guarded in two ways: turn makes
// operations wait for each other; mu guards fields for microseconds and is
// never held over a call of the backend.
type server struct {
	cfg     Config
	backend Backend
	monitor *monitor
	turn    chan struct{} // holds one token: the right to carry out an operation

	mu     sync.Mutex
	conns  map[*net.UnixConn]struct{}
	counts map[string]int
	vm     *vm // nil until vm.create

	end     chan struct{} // closed when the VMM is to end by itself
	endOnce sync.Once
}

// Serve answers requests until ctx ends, vmm.shutdown is called or the machine
// ends by itself, and gives back everything of the machine before it returns.
// All three are a regular end, for which it returns nil: the VMM then exits
// with status 0.
func Serve(ctx context.Context, c Config) error {
	if c.Listener == nil || c.Backend == nil {
		return fmt.Errorf("serve API: no listener or no backend: %w", errdefs.ErrInvalidArgument)
	}
	if c.Profile == (Profile{}) {
		c.Profile = profiles[0].Profile
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	s := &server{
		cfg: c, monitor: newMonitor(c.EventMonitor), turn: make(chan struct{}, 1),
		conns: map[*net.UnixConn]struct{}{}, counts: map[string]int{}, end: make(chan struct{}),
	}
	s.turn <- struct{}{}
	defer s.monitor.close()
	defer func() { _ = c.Listener.Close() }()
	backend, err := c.Backend(events{s})
	if err != nil {
		return fmt.Errorf("serve API: make the machine's backend: %w", err)
	}
	s.backend = backend
	s.monitor.send("vmm", "starting", nil)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving sync.WaitGroup
	serving.Go(func() { s.accept(ctx, &serving) })
	select {
	case <-ctx.Done():
	case <-s.end:
	}
	_ = c.Listener.Close()
	err = s.shutdown(ctx)
	cancel()
	s.hangUp()
	serving.Wait()
	return err
}

// shutdown ends the machine, waiting a while for the operation under way.
func (s *server) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), turnTimeout)
	defer cancel()
	var err error
	if s.acquire(ctx) {
		err = s.deleteVM(ctx)
		s.monitor.send("vmm", "shutdown", nil)
		s.release()
	}
	return errors.Join(err, s.backend.Close())
}

func (s *server) acquire(ctx context.Context) bool {
	select {
	case <-s.turn:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *server) release() { s.turn <- struct{}{} }

// exit makes Serve return.
func (s *server) exit() { s.endOnce.Do(func() { close(s.end) }) }

func (s *server) accept(ctx context.Context, serving *sync.WaitGroup) {
	for {
		conn, err := s.cfg.Listener.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				fmt.Fprintf(os.Stderr, "accept on the API socket: %v\n", err)
				s.exit()
			}
			return
		}
		if !s.admit(conn) {
			_ = writeResponse(conn, http.StatusServiceUnavailable, serverMicro, []byte(`{ "error": "Too many open connections" }`))
			_ = conn.Close()
			continue
		}
		serving.Go(func() {
			defer s.dismiss(conn)
			s.serveConn(ctx, conn)
		})
	}
}

func (s *server) admit(conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxConns {
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *server) dismiss(conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	_ = conn.Close()
}

func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		// An answer may still be on its way out, but not for ever.
		_ = conn.CloseRead()
		_ = conn.SetWriteDeadline(time.Now().Add(flushTimeout))
	}
}

func (s *server) serveConn(ctx context.Context, conn *net.UnixConn) {
	in := &stream{conn: conn}
	defer func() { closeAll(in.take()) }()
	r := bufio.NewReader(in)
	for {
		req, err := readRequest(r, s.cfg.Profile.MaxBody, conn)
		var bad badHTTP
		if errors.As(err, &bad) {
			_ = writeResponse(conn, http.StatusBadRequest, serverMicro,
				fmt.Appendf(nil, "{ \"error\": \"%s\nAll previous unanswered requests will be dropped.\" }", bad.text))
			return
		}
		if err != nil {
			return
		}
		req.files = in.take()
		resp, after := s.execute(ctx, in, req)
		if resp.Drop {
			return
		}
		err = writeResponse(conn, resp.Status, serverAPI, resp.Body)
		if after != nil {
			after()
		}
		if err != nil {
			return
		}
	}
}
