package agenttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/internal/vsock"
)

// handshakeTimeout limits how long a client may take to name its port.
const handshakeTimeout = 10 * time.Second

// hostPort is what the handshake names as the host's port, without meaning.
const hostPort = 1 << 30

// wire is the agent's sockets. The ttrpc server accepts what passed a handshake.
type wire struct {
	server *ttrpc.Server
	conns  chan net.Conn
	done   chan struct{}
	tasks  sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	open      map[net.Conn]bool
	ports     map[uint32]func(net.Conn)
}

func newWire(a *Agent) *wire {
	w := &wire{conns: make(chan net.Conn), done: make(chan struct{}), open: map[net.Conn]bool{}, ports: map[uint32]func(net.Conn){}}
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(a.intercept))
	if err != nil {
		panic(err) // its options are constants
	}
	w.server = server
	agentpb.RegisterAgentServiceService(server, service{a: a})
	agentpb.RegisterHealthService(server, health{a})
	w.tasks.Go(func() { _ = server.Serve(context.Background(), acceptor{w}) })
	return w
}

func (w *wire) listen(path string, serve func(net.Conn)) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("scripted agent: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.Join(net.ErrClosed, l.Close())
	}
	w.listeners = append(w.listeners, l)
	w.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.tasks.Go(func() { serve(conn) })
		}
	})
	return nil
}

// handshake answers the first line of hybrid vsock and hands the connection on.
func (w *wire) handshake(conn net.Conn) {
	if !w.track(conn) {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	line, err := vsock.ReadLine(conn)
	if err != nil {
		w.drop(conn)
		return
	}
	port, err := vsock.ParseConnect(line)
	if err != nil {
		w.drop(conn)
		return
	}
	w.mu.Lock()
	serve := w.ports[port]
	w.mu.Unlock()
	if port == AgentPort && serve == nil {
		serve = w.deliver
	}
	if serve == nil { // nobody listens: the VMM just closes
		w.drop(conn)
		return
	}
	if _, err := conn.Write(vsock.Reply(hostPort)); err != nil {
		w.drop(conn)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	serve(conn)
}

// deliver gives a connection to the ttrpc server.
func (w *wire) deliver(conn net.Conn) {
	if !w.track(conn) {
		return
	}
	select {
	case w.conns <- conn:
	case <-w.done:
		w.drop(conn)
	}
}

func (w *wire) track(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		conn.Close()
		return false
	}
	w.open[conn] = true
	return true
}

func (w *wire) drop(conn net.Conn) {
	w.mu.Lock()
	delete(w.open, conn)
	w.mu.Unlock()
	conn.Close()
}

// hangUp closes listeners and connections, without waiting.
func (w *wire) hangUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	close(w.done)
	for _, l := range w.listeners {
		l.Close()
	}
	for conn := range w.open {
		conn.Close()
	}
}

func (w *wire) close() {
	w.hangUp()
	_ = w.server.Close()
	w.tasks.Wait()
}

// acceptor is the listener that the ttrpc server sees.
type acceptor struct{ w *wire }

func (a acceptor) Accept() (net.Conn, error) {
	select {
	case conn := <-a.w.conns:
		return conn, nil
	case <-a.w.done:
		return nil, net.ErrClosed
	}
}

func (a acceptor) Close() error   { return nil }
func (a acceptor) Addr() net.Addr { return &net.UnixAddr{Name: "agent", Net: "unix"} }
