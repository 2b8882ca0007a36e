// Package qmp speaks the QEMU Machine Protocol: JSON lines on a Unix stream,
// on which commands can carry file descriptors.
//
// It exists beside the known clients because those read an answer from a buffer
// that the next event overwrites, and cannot give up on a command.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxLine bounds one message. The longest that QEMU sends to our commands is
	// a few KiB; more than this comes from a QEMU that its guest has taken over.
	maxLine = 1 << 20
	// maxEvents bounds the events that nobody has taken yet, for the same reason.
	maxEvents = 1 << 14
)

// Client is one QMP session, safe for concurrent use.
type Client struct {
	conn *net.UnixConn

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]chan message
	events  []Event
	err     error // why the session ended; set once

	wake chan struct{} // capacity 1: there are new events
	done chan struct{} // closed when the session has ended

	send sync.Mutex // whole commands, in the order of their ids
}

// New starts a session on conn, which it owns from then on: it waits for QEMU's
// greeting and leaves the negotiation mode.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{
		conn:    conn,
		pending: make(map[uint64]chan message),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	greeted := make(chan struct{})
	go c.read(greeted)
	var err error
	select {
	case <-greeted:
		err = c.Run(ctx, "qmp_capabilities", nil, nil)
	case <-c.done:
		err = c.Err()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("start QMP session: %w", err)
	}
	return c, nil
}

// Close ends the session; commands still waiting fail.
func (c *Client) Close() {
	c.conn.Close() // fails only if the session has ended
	<-c.done
}

// Done is closed when the session has ended, from whichever side.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the session ended; nil while it lasts.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Run executes the command name with arguments (anything that encodes to a JSON
// object, or nil) and decodes what it returns into result, unless that is nil.
// The files go along with the command; they stay the caller's. QEMU's refusal is
// an *Error. If ctx ends first QEMU may still carry the command out.
func (c *Client) Run(ctx context.Context, name string, arguments, result any, files ...*os.File) error {
	answer := make(chan message, 1)
	id, err := c.write(name, arguments, answer, files)
	if err != nil {
		return fmt.Errorf("QMP %s: %w", name, err)
	}
	var m message
	select {
	case m = <-answer:
	case <-c.done:
		select {
		case m = <-answer: // it came just before the end
		default:
			return fmt.Errorf("QMP %s: %w", name, c.Err())
		}
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
		return fmt.Errorf("QMP %s: %w", name, context.Cause(ctx))
	}
	if m.Error != nil {
		m.Error.Command = name
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("QMP %s: decode answer: %w", name, err)
	}
	return nil
}

// Next waits for the next event. After the end of the session it gives the
// events that came before and then fails.
func (c *Client) Next() (Event, error) {
	for {
		c.mu.Lock()
		if len(c.events) > 0 {
			e := c.events[0]
			c.events = c.events[1:]
			c.mu.Unlock()
			return e, nil
		}
		err := c.err
		c.mu.Unlock()
		if err != nil {
			return Event{}, err
		}
		select {
		case <-c.wake:
		case <-c.done:
		}
	}
}

func (c *Client) write(name string, arguments any, answer chan message, files []*os.File) (uint64, error) {
	c.send.Lock()
	defer c.send.Unlock()
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.pending[id] = answer
	c.mu.Unlock()

	err := c.sendLine(command{Execute: name, Arguments: arguments, ID: id}, files)
	if err != nil {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}
	return id, err
}

func (c *Client) sendLine(cmd command, files []*os.File) error {
	line, err := json.Marshal(cmd)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	line = append(line, '\n')
	if len(files) == 0 {
		_, err = c.conn.Write(line)
		return err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	n, _, err := c.conn.WriteMsgUnix(line, unix.UnixRights(fds...), nil)
	if err == nil && n < len(line) {
		_, err = c.conn.Write(line[n:])
	}
	return err
}

// read is the session's one reader. It never waits for anybody but QEMU, so a
// command can be run while events are being handled.
func (c *Client) read(greeted chan<- struct{}) {
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	var err error
	for err == nil && lines.Scan() {
		err = c.take(bytes.Clone(lines.Bytes()), &greeted)
	}
	if err == nil {
		err = lines.Err()
	}
	if err == nil || errors.Is(err, net.ErrClosed) {
		err = errors.New("QMP session is closed")
	}
	c.conn.Close()
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.done)
}

func (c *Client) take(line []byte, greeted *chan<- struct{}) error {
	m, err := parse(line)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.Greeting != nil:
		if *greeted == nil {
			return errors.New("QMP: a second greeting")
		}
		close(*greeted)
		*greeted = nil
	case m.Event != "":
		if len(c.events) == maxEvents {
			return fmt.Errorf("QMP: %d events that nobody took", maxEvents)
		}
		c.events = append(c.events, Event{Name: m.Event, Data: m.Data})
		select {
		case c.wake <- struct{}{}:
		default:
		}
	case m.ID == nil:
		return errors.New("QMP: an answer without id, so QEMU could not read a command")
	default:
		if answer, ok := c.pending[*m.ID]; ok { // else its caller has given up
			delete(c.pending, *m.ID)
			answer <- m
		}
	}
	return nil
}
