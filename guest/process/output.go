package process

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Output is a stream out of a process: a pipe's reading end or a terminal.
type Output struct {
	f       *os.File
	turn    chan struct{} // held by the one reader
	linger  time.Duration
	ended   chan struct{} // closed when the process has ended
	endedAt time.Time     // valid after that

	last *int // bytes that are still read, once others have written for long enough; of the one reader
}

func newOutput(f *os.File) *Output {
	return &Output{f: f, turn: make(chan struct{}, 1), linger: LingerTime, ended: make(chan struct{})}
}

// Read waits for output and returns up to size bytes of it, at most
// [MaxRead]. It returns no bytes and no error at the end of the stream, which
// is when every writer has closed it; or when the process has ended and whoever
// else holds the stream has been silent for [DrainTime], or has gone on writing
// for [LingerTime].
func (o *Output) Read(ctx context.Context, size int) ([]byte, error) {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	// A caller who went away must not take bytes with him.
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		o.f.SetReadDeadline(time.Unix(1, 0))
		close(woken)
	})
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	buf := make([]byte, min(max(size, 1), MaxRead))
	for {
		if !o.setDeadline(ctx) {
			return nil, context.Cause(ctx)
		}
		n, err := o.f.Read(buf[:o.atMost(len(buf))])
		switch {
		case n > 0:
			if o.last != nil {
				*o.last -= n
			}
			return buf[:n], nil
		case err == nil || errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed), errors.Is(err, unix.EIO):
			return nil, nil // EIO is how a terminal says that nobody holds its other end
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case o.hasEnded():
			return nil, nil
		}
	}
}

// atMost is how much of size may still be read. When others have written for long
// enough, it is what is in the pipe then: all that the process itself has left is
// in it. A terminal has no such others: it is hung up.
func (o *Output) atMost(size int) int {
	if o.last == nil && o.hasEnded() && time.Since(o.endedAt) > o.linger {
		if n, err := o.buffered(); err == nil {
			o.last = &n
		}
	}
	if o.last == nil {
		return size
	}
	return min(size, *o.last)
}

// buffered is how many bytes a pipe holds.
func (o *Output) buffered() (n int, err error) {
	raw, err := o.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var ioctl error
	err = raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		if ioctl = unix.Fstat(int(fd), &st); ioctl == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
			ioctl = unix.ENOTSUP
		}
		if ioctl == nil {
			n, ioctl = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		}
	})
	return n, errors.Join(err, ioctl)
}

// setDeadline limits the next read; it is false if ctx has ended.
func (o *Output) setDeadline(ctx context.Context) bool {
	o.f.SetReadDeadline(time.Time{})
	if o.hasEnded() {
		o.f.SetReadDeadline(time.Now().Add(DrainTime))
	}
	return ctx.Err() == nil
}

func (o *Output) hasEnded() bool {
	select {
	case <-o.ended:
		return true
	default:
		return false
	}
}

// processEnded bounds how long a reader may still wait.
func (o *Output) processEnded() {
	o.endedAt = time.Now()
	close(o.ended)
	o.f.SetReadDeadline(time.Now().Add(DrainTime))
}
