// Package vsock speaks the hybrid vsock handshake, by which a VMM that keeps a
// virtio socket device in user space (Firecracker, Cloud Hypervisor,
// vhost-device-vsock) joins a Unix stream on the host with a vsock port of the
// guest:
//
//	host → VMM  CONNECT <port>\n
//	VMM → host  OK <host port>\n     after the guest has accepted
//
// From there on the stream is the guest's. A VMM that cannot connect closes the
// stream and says nothing. Source: Cloud Hypervisor docs/vsock.md and
// virtio-devices/src/vsock/unix.
package vsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
)

// MaxLine is the longest line of the handshake, newline included, that either
// side takes.
const MaxLine = 32

// Dial connects to the guest's port through the Unix socket at path. A guest
// that does not listen refuses (errdefs.ErrUnavailable); a guest that has not
// brought up its vsock device yet keeps the caller waiting until ctx ends. The
// bytes after the handshake are all left to the caller.
func Dial(ctx context.Context, path string, port uint32) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("dial vsock port %d: %w", port, unavailable(ctx, err))
	}
	if err := Handshake(ctx, conn, port); err != nil {
		conn.Close()
		return nil, fmt.Errorf("dial vsock port %d through %s: %w", port, path, err)
	}
	return conn, nil
}

// Handshake asks the VMM at the other end of conn for the guest's port and
// returns when the guest has accepted. It reads not a byte beyond the answer.
// After an error conn is of no use.
func Handshake(ctx context.Context, conn net.Conn, port uint32) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// One write: some versions lose a command that arrives in pieces.
	if _, err := conn.Write(fmt.Appendf(nil, "CONNECT %d\n", port)); err != nil {
		return unavailable(ctx, err)
	}
	line, err := ReadLine(conn)
	if err != nil {
		return unavailable(ctx, err)
	}
	if err := parseReply(line); err != nil {
		return err
	}
	if !stop() { // ctx ended meanwhile, so conn may carry a deadline
		return fmt.Errorf("handshake: %w", context.Cause(ctx))
	}
	return nil
}

// ReadLine reads from r up to and including a newline and not further, at most
// MaxLine bytes. The stream's end before the newline is io.ErrUnexpectedEOF.
func ReadLine(r io.Reader) ([]byte, error) {
	line := make([]byte, 0, MaxLine)
	for len(line) < MaxLine {
		n, err := r.Read(line[len(line) : len(line)+1])
		line = line[:len(line)+n]
		if n == 1 && line[len(line)-1] == '\n' {
			return line, nil
		}
		if errors.Is(err, io.EOF) {
			return line, io.ErrUnexpectedEOF
		}
		if err != nil {
			return line, err
		}
	}
	return line, fmt.Errorf("line of the handshake is longer than %d bytes: %w", MaxLine, errdefs.ErrInvalidArgument)
}

// ParseConnect reads the line "CONNECT <port>\n" of the side that dials.
func ParseConnect(line []byte) (port uint32, err error) {
	return number(line, "CONNECT")
}

// Reply is the line by which a guest's acceptance is told to the side that
// dialled; port is of no meaning to it.
func Reply(port uint32) []byte {
	return fmt.Appendf(nil, "OK %d\n", port)
}

func parseReply(line []byte) error {
	_, err := number(line, "OK")
	return err
}

func number(line []byte, word string) (uint32, error) {
	text, ok := bytes.CutSuffix(line, []byte("\n"))
	first, rest, ok2 := bytes.Cut(text, []byte(" "))
	n, err := strconv.ParseUint(string(rest), 10, 32)
	if !ok || !ok2 || err != nil || !bytes.EqualFold(first, []byte(word)) {
		return 0, fmt.Errorf("parse %q of the vsock handshake: not of the form \"%s <number>\": %w", line, word, errdefs.ErrInvalidArgument)
	}
	return uint32(n), nil
}

// unavailable says why a stream could not be had, the end of ctx first.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("handshake: %w", context.Cause(ctx))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the guest refused: %w", errdefs.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}
