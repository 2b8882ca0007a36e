package rpc

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ttrpc's server takes a connection with one request under way for idle and
// would close it without the answer. So the answers are counted on the wire: a
// frame is 10 bytes (length, stream, type, flags), then the payload.
const (
	frameHeader   = 10
	frameType     = 8 // offset in the header
	typeRequest   = 1
	typeResponse  = 2
	answeredCheck = 2 * time.Millisecond
)

// frames counts the frames of one type in one direction of a connection.
type frames struct {
	kind   byte
	header []byte // as far as it has been seen
	left   uint32 // of the payload
	seen   atomic.Int64
}

// pass takes bytes that have gone by.
func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		if len(f.header) < frameHeader {
			n := min(frameHeader-len(f.header), len(p))
			f.header, p = append(f.header, p[:n]...), p[n:]
			if len(f.header) < frameHeader {
				return
			}
			f.left = binary.BigEndian.Uint32(f.header)
		}
		n := min(uint64(f.left), uint64(len(p)))
		f.left, p = f.left-uint32(n), p[n:]
		if f.left == 0 {
			if f.header[frameType] == f.kind {
				f.seen.Add(1)
			}
			f.header = f.header[:0]
		}
	}
}

// countedConn counts requests and answers.
type countedConn struct {
	net.Conn
	l       *countedListener
	in, out frames
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.pass(p[:n])
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.pass(p[:n])
	return n, err
}

func (c *countedConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// countedListener knows whether every request has its answer.
type countedListener struct {
	net.Listener
	mu    sync.Mutex
	conns map[*countedConn]struct{}
}

func newCountedListener(l net.Listener) *countedListener {
	return &countedListener{Listener: l, conns: make(map[*countedConn]struct{})}
}

// Accept implements [net.Listener].
func (l *countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &countedConn{Conn: conn, l: l, in: frames{kind: typeRequest}, out: frames{kind: typeResponse}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return c, nil
}

// waitAnswered returns when every request on an open connection has its answer,
// or ctx ends.
func (l *countedListener) waitAnswered(ctx context.Context) {
	for {
		answered := true
		l.mu.Lock()
		for c := range l.conns {
			answered = answered && c.out.seen.Load() >= c.in.seen.Load()
		}
		l.mu.Unlock()
		if answered {
			return
		}
		select {
		case <-time.After(answeredCheck):
		case <-ctx.Done():
			return
		}
	}
}
