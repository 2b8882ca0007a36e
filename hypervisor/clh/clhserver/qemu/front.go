package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/kata-cc/kata-cc/internal/vsock"
)

// front stands between the host's clients and vhost-device-vsock, which goes
// deaf for good when a client hangs up before it was answered, and hangs up on
// clients that come before the guest's driver. Behind the front no connection is
// closed before the device has answered it, and clients that come early wait in
// the backlog, as they do under Cloud Hypervisor.
type front struct {
	listener *net.UnixListener
	device   string // path of the device's own socket

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	served sync.WaitGroup
}

// maxStreams is how many connections may be open, as under Cloud Hypervisor.
const maxStreams = 1023

// newFront takes the place of the device's socket at path, which moves to
// device. Guests still reach host ports at "<path>_<port>": the device keeps
// the name it was started with.
func newFront(path, device string) (*front, error) {
	if err := os.Rename(path, device); err != nil {
		return nil, fmt.Errorf("move the vsock device's socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return nil, fmt.Errorf("vsock socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // whoever made the front removes both
	return &front{listener: l, device: device, conns: make(map[net.Conn]struct{})}, nil
}

// serve accepts connections until close. It is called when the guest's driver
// uses the device.
func (f *front) serve() {
	for {
		conn, err := f.listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if f.enter(conn) {
			f.served.Go(func() {
				defer f.leave(conn)
				f.stream(conn)
			})
		}
	}
}

// enter counts conn among the open ones, or closes it.
func (f *front) enter(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || len(f.conns) >= 2*maxStreams {
		conn.Close()
		return false
	}
	f.conns[conn] = struct{}{}
	return true
}

func (f *front) leave(conn net.Conn) {
	conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, conn)
}

// close ends all streams and waits for them. It may be called more than once.
func (f *front) close() {
	f.listener.Close()
	f.mu.Lock()
	f.closed = true
	for conn := range f.conns {
		conn.Close()
	}
	f.mu.Unlock()
	f.served.Wait()
}

// stream serves one client: it is closed without a word for whatever is wrong.
func (f *front) stream(client *net.UnixConn) {
	line, err := vsock.ReadLine(client)
	if err != nil {
		return
	}
	port, err := vsock.ParseConnect(line)
	if err != nil {
		return
	}
	device, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: f.device})
	if err != nil || !f.enter(device) {
		return
	}
	defer f.leave(device)
	// However long it takes: the client may have gone, the device must not know.
	if err := vsock.Handshake(context.Background(), device, port); err != nil {
		return
	}
	if _, err := client.Write(vsock.Reply(port)); err != nil {
		return
	}
	join(client, device)
}

// join copies both ways until both sides have ended. An end of one direction is
// passed on; a side that cannot be written to has gone.
func join(a, b *net.UnixConn) {
	var both sync.WaitGroup
	oneWay := func(to, from *net.UnixConn) {
		if _, err := io.Copy(to, from); err != nil {
			to.Close()
			from.Close()
			return
		}
		to.CloseWrite()
	}
	both.Go(func() { oneWay(a, b) })
	both.Go(func() { oneWay(b, a) })
	both.Wait()
}
