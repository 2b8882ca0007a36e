package vhostvsock

import (
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// key names a stream: there is one guest and one host.
type key struct{ host, guest uint32 }

// stream joins a Unix socket of the host's with a vsock connection of the
// guest's.
//
//	asked ──the other side accepts──> open ──> gone
//	  └──────────refused──────────────────────┘
//
// Two goroutines serve an open stream: read takes bytes from the socket and
// waits until they are in the guest's memory; write takes bytes that came from
// the guest and waits for the socket.
type stream struct {
	key
	socket *net.UnixConn // nil until the host's side has accepted
	wake   *sync.Cond    // on the device's mu: something below has changed

	isOpen bool // both sides have accepted
	gone   bool // not in the device's table any more

	// To the guest.
	pending  []byte // read from the socket, not sent yet
	queued   bool   // in the device's ready list
	noInput  bool   // the guest does not want any more
	sent     uint32 // bytes, ever
	bufAlloc uint32 // the guest's receive buffer
	fwdCnt   uint32 // what its user has read of it, ever

	// From the guest.
	output   [][]byte // not yet written to the socket
	received uint32   // bytes, ever
	written  uint32   // bytes, ever
	told     uint32   // of written, what the guest knows
	ended    bool     // the guest will not send any more
}

const (
	// bufferSize is what the guest may send ahead of the socket's reader.
	bufferSize = 256 << 10
	// readSize is what is read from a socket at once.
	readSize = 64 << 10
	// firstPort is where the host's port numbers begin. Cloud Hypervisor has
	// the same.
	firstPort = 1 << 30
)

// credit is how many bytes the guest has room for.
func (s *stream) credit() int {
	inFlight := s.sent - s.fwdCnt
	if inFlight > s.bufAlloc {
		return 0 // it shrank its buffer, or lies
	}
	return int(s.bufAlloc - inFlight)
}

// sendable tells whether the stream has data and the guest has room for it.
func (s *stream) sendable() bool {
	return !s.gone && s.isOpen && len(s.pending) > 0 && s.credit() > 0
}

// read carries the socket's bytes to the guest until either side ends.
func (d *Device) read(s *stream) {
	buffer := make([]byte, readSize)
	for {
		n, err := s.socket.Read(buffer)
		d.mu.Lock()
		s.pending = buffer[:n]
		d.schedule(s)
		d.work()
		for len(s.pending) > 0 && !s.gone && !s.noInput {
			s.wake.Wait()
		}
		over := s.gone || s.noInput
		if err != nil && !over {
			d.inputEnded(s)
			over = true
		}
		d.mu.Unlock()
		if over {
			return
		}
	}
}

// inputEnded tells the guest that the socket's peer will send no more, and also
// if it will not read any more, which only its having closed the socket says.
func (d *Device) inputEnded(s *stream) {
	flags := uint32(noSend)
	if hungUp(s.socket) {
		flags |= noReceive
	}
	d.send(s, opShutdown, flags)
	d.work()
}

// hungUp tells whether the peer of a socket at its end has closed it, and not
// only its sending half.
func hungUp(socket *net.UnixConn) (yes bool) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, failed := unix.Poll(fds, 0)
		yes = failed == nil && n == 1 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return yes || err != nil
}

// write carries the guest's bytes to the socket, after hello. It passes the end
// of the guest's sending on, and closes the socket when the stream is gone and
// everything is written, or when the socket's peer does not read any more.
func (d *Device) write(s *stream, hello []byte) {
	defer s.socket.Close()
	_, err := s.socket.Write(hello)
	for halfClosed := false; ; {
		d.mu.Lock()
		if err != nil {
			s.output = nil
			if !s.gone {
				d.send(s, opReset, 0)
				d.drop(s)
				d.work()
			}
		}
		for len(s.output) == 0 && !s.gone && (!s.ended || halfClosed) {
			s.wake.Wait()
		}
		batch := net.Buffers(s.output)
		s.output = nil
		over := len(batch) == 0 && s.gone
		if over {
			delete(d.live, s)
		}
		d.mu.Unlock()
		switch {
		case over:
			return
		case len(batch) == 0:
			halfClosed = true
			s.socket.CloseWrite() // fails only if the peer is gone
			continue
		}
		var n int64
		n, err = batch.WriteTo(s.socket)
		d.mu.Lock()
		s.written += uint32(n)
		if !s.gone && s.written-s.told >= bufferSize/4 {
			d.send(s, opCreditUpdate, 0)
			d.work()
		}
		d.mu.Unlock()
	}
}

// open starts to serve a stream that both sides have accepted. The socket's peer
// is told hello before anything of the guest's.
func (d *Device) open(s *stream, hello []byte) {
	s.isOpen = true
	d.live[s] = struct{}{}
	d.workers.Go(func() { d.read(s) })
	d.workers.Go(func() { d.write(s, hello) })
}
