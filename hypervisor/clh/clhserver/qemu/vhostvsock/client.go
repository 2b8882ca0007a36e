package vhostvsock

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/kata-cc/kata-cc/internal/vsock"
)

const (
	// maxStreams is how many streams there may be, as under Cloud Hypervisor.
	maxStreams = 1023
	// answerTimeout is how long a guest that has been asked may take to accept a
	// stream.
	answerTimeout = 2 * time.Second
)

// accept lets the host's clients in until the device ends.
func (d *Device) accept() {
	for {
		client, err := d.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && d.enter(client) {
			d.workers.Go(func() { d.connect(client) })
		}
	}
}

// enter counts client among those that have not said yet what they want, or
// closes it.
func (d *Device) enter(client *net.UnixConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.clients) >= maxStreams {
		client.Close()
		return false
	}
	d.clients[client] = struct{}{}
	return true
}

// connect reads what the client wants and asks the guest. The answer comes in
// answered; a client that is wrong or late is closed.
func (d *Device) connect(client *net.UnixConn) {
	line, err := vsock.ReadLine(client)
	var port uint32
	if err == nil {
		port, err = vsock.ParseConnect(line)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.clients, client)
	if err != nil || d.closed || len(d.streams) >= maxStreams {
		client.Close()
		return
	}
	s := &stream{key: key{host: d.freePort(port), guest: port}, socket: client, wake: sync.NewCond(&d.mu)}
	d.streams[s.key] = s
	d.send(s, opRequest, 0)
	d.work()
}

// freePort gives a port number of the host's side that no stream to the guest's
// port has.
func (d *Device) freePort(guest uint32) uint32 {
	for {
		d.lastPort++
		if d.lastPort < firstPort {
			d.lastPort = firstPort
		}
		if d.streams[key{host: d.lastPort, guest: guest}] == nil {
			return d.lastPort
		}
	}
}

// asked is called when the guest has the request to accept s.
func (d *Device) asked(s *stream) {
	time.AfterFunc(answerTimeout, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !s.gone && !s.isOpen {
			d.send(s, opReset, 0)
			d.drop(s)
			d.work()
		}
	})
}

// dial connects the guest to the host's port: a Unix socket beside ours.
func (d *Device) dial(s *stream) {
	path := d.options.Socket + "_" + strconv.FormatUint(uint64(s.host), 10)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil && s.gone: // it gave up
		conn.Close()
	case err != nil && !s.gone:
		d.send(s, opReset, 0)
		d.drop(s)
	case err == nil:
		s.socket = conn
		d.send(s, opResponse, 0)
		d.open(s, nil)
	}
	d.work()
}
