package agentclient

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/errdefs"
)

// headLength is that of the head of a ttrpc message: the length of what follows
// (4 bytes, big endian), the stream (4), the kind, flags.
const headLength = 10

// asked is a connection on which every answer is to a question. ttrpc's client
// passes over others, and says so in the log each time: a guest could fill the
// host's disk with that.
type asked struct {
	net.Conn
	in, out heads // each used by one goroutine at a time: ttrpc's reader and writer

	mu   sync.Mutex
	open map[uint32]bool // streams whose request has no answer yet
}

func newAsked(conn net.Conn) *asked { return &asked{Conn: conn, open: map[uint32]bool{}} }

// Write implements net.Conn.
func (a *asked) Write(b []byte) (int, error) {
	if err := a.out.each(b, func(stream uint32) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.open[stream] = true
		return nil
	}); err != nil {
		return 0, err
	}
	return a.Conn.Write(b)
}

// Read implements net.Conn. It fails for good at an answer that nobody asked for.
func (a *asked) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	if wrong := a.in.each(b[:n], a.answered); wrong != nil {
		return 0, wrong
	}
	return n, err
}

func (a *asked) answered(stream uint32) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.open[stream] {
		return fmt.Errorf("agent answers on stream %d, where nothing was asked: %w", stream, errdefs.ErrDataLoss)
	}
	delete(a.open, stream)
	return nil
}

// heads finds the heads of messages in a stream of bytes, however it is cut.
type heads struct {
	head [headLength]byte
	have int    // bytes of the head that were seen
	left uint32 // bytes of the message that were not
}

// each calls do with the stream of every message that begins in b, until one is
// refused.
func (h *heads) each(b []byte, do func(stream uint32) error) error {
	for len(b) > 0 {
		if h.left > 0 {
			n := min(uint64(h.left), uint64(len(b)))
			h.left, b = h.left-uint32(n), b[n:]
			continue
		}
		n := copy(h.head[h.have:], b)
		h.have, b = h.have+n, b[n:]
		if h.have < headLength {
			return nil
		}
		h.have, h.left = 0, binary.BigEndian.Uint32(h.head[:4])
		if err := do(binary.BigEndian.Uint32(h.head[4:8])); err != nil {
			return err
		}
	}
	return nil
}
