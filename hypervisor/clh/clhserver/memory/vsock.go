package memory

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/kata-cc/kata-cc/internal/vsock"
)

// listener joins host-side connections to what stands for the guest's ports.
type listener struct {
	script Script
	socket string
	l      *net.UnixListener
	done   chan struct{}
	work   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func listen(socket string, s Script) (*listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("bind the vsock socket: %w", err)
	}
	v := &listener{script: s, socket: socket, l: l, done: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	v.work.Go(v.accept)
	return v, nil
}

func (v *listener) accept() {
	if v.script.Up == Never {
		<-v.done
		return
	}
	select {
	case <-time.After(time.Duration(v.script.Up)):
	case <-v.done:
		return
	}
	for {
		c, err := v.l.AcceptUnix()
		if err != nil {
			return
		}
		v.work.Go(func() { v.serve(c) })
	}
}

// serve answers one handshake and copies until both sides have ended. A port
// without a listener is refused as the original refuses: without a word.
func (v *listener) serve(c *net.UnixConn) {
	defer v.forget(c)
	if !v.keep(c) {
		return
	}
	line, err := vsock.ReadLine(c)
	if err != nil {
		return
	}
	port, err := vsock.ParseConnect(line)
	if err != nil {
		return
	}
	path, direct := v.script.Vsock[port]
	if !direct {
		path = v.script.Hybrid
	}
	if path == "" {
		return
	}
	guest, err := net.Dial("unix", expand(path, v.socket))
	if err != nil {
		return
	}
	defer v.forget(guest)
	if !v.keep(guest) {
		return
	}
	if direct {
		_, err = c.Write(vsock.Reply(1 << 30))
	} else {
		_, err = guest.Write(line)
	}
	if err == nil {
		join(c, guest.(*net.UnixConn))
	}
}

func join(a, b *net.UnixConn) {
	var both sync.WaitGroup
	for _, pair := range [][2]*net.UnixConn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1]) // either end may break it off
			_ = pair[0].CloseWrite()
		})
	}
	both.Wait()
}

func (v *listener) keep(c net.Conn) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conns == nil {
		return false
	}
	v.conns[c] = struct{}{}
	return true
}

func (v *listener) forget(c net.Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c.Close()
	delete(v.conns, c)
}

// close unbinds the socket and ends every connection.
func (v *listener) close() {
	close(v.done)
	_ = v.l.Close()
	v.mu.Lock()
	for c := range v.conns {
		c.Close()
	}
	v.conns = nil
	v.mu.Unlock()
	v.work.Wait()
}
