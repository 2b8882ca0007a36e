package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/sandbox"
)

// parseStdio says what kind of thing a process's output goes to: the standard
// output's address decides for both. A path without a scheme is a fifo.
func parseStdio(paths stdioPaths) (*url.URL, error) {
	u, err := url.Parse(paths.stdout)
	if err != nil {
		return nil, fmt.Errorf("standard output %q: %w: %w", paths.stdout, err, errdefs.ErrInvalidArgument)
	}
	switch u.Scheme {
	case "", "fifo":
		u.Scheme = "fifo"
	case "file", "binary":
		if !filepath.IsAbs(u.Path) {
			return nil, fmt.Errorf("standard output %q: path is not absolute: %w", paths.stdout, errdefs.ErrInvalidArgument)
		}
	default:
		return nil, fmt.Errorf("standard output %q: unknown scheme %q: %w", paths.stdout, u.Scheme, errdefs.ErrInvalidArgument)
	}
	return u, nil
}

// opener says how to connect the streams of a process of a container. ctx gives
// the namespace.
func (s *Service) opener(ctx context.Context, paths stdioPaths, container string) sandbox.OpenStdio {
	namespace, _ := namespaces.Namespace(ctx)
	return func(ctx context.Context) (*sandbox.Stdio, error) {
		return openStdio(ctx, paths, namespace, container)
	}
}

func openStdio(ctx context.Context, paths stdioPaths, namespace, container string) (_ *sandbox.Stdio, err error) {
	u, err := parseStdio(paths)
	if err != nil {
		return nil, err
	}
	var back undo.Stack
	defer back.OnError(ctx, &err)
	stdio := &sandbox.Stdio{Terminal: paths.terminal}
	if paths.stdin != "" {
		var in *input
		if in, err = openInput(paths.stdin); err != nil {
			return nil, err
		}
		back.Add(func(context.Context) error { return in.Close() })
		stdio.Stdin = in
	}
	if u.Scheme == "binary" {
		stdio.Stdout, stdio.Stderr, err = startLogger(ctx, u, namespace, container)
		if paths.terminal && err == nil {
			err = stdio.Stderr.Close()
			stdio.Stderr = nil
		}
		return stdio, err
	}
	outputs := []struct {
		address string
		stream  *io.WriteCloser
	}{{paths.stdout, &stdio.Stdout}, {paths.stderr, &stdio.Stderr}}
	if paths.terminal {
		outputs = outputs[:1]
	}
	for _, o := range outputs {
		if o.address == "" {
			continue
		}
		var f *os.File
		if u.Scheme == "file" {
			f, err = openFile(u.Path)
		} else {
			f, err = openOutput(ctx, fifoPath(o.address))
		}
		if err != nil {
			return nil, err
		}
		back.Add(func(context.Context) error { return f.Close() })
		*o.stream = f
	}
	return stdio, nil
}

func fifoPath(address string) string {
	if u, err := url.Parse(address); err == nil && u.Scheme == "fifo" {
		return u.Path
	}
	return address
}

// openOutput opens a fifo for writing. It waits a little for a reader, because
// what is written to a fifo that nobody opened for reading is gone when it is
// closed. From then on it is held open at both ends: a reader may go away and
// another come without an error here.
func openOutput(ctx context.Context, path string) (*os.File, error) {
	limit := time.Now().Add(readerTimeout)
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			defer f.Close()
			break
		}
		if !errors.Is(err, unix.ENXIO) {
			return nil, fmt.Errorf("open output: %w", err)
		}
		if time.Now().After(limit) {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("open output %s: no reader: %w", path, context.Cause(ctx))
		case <-time.After(readerPoll):
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open output: %w", err)
	}
	return f, nil
}

func openFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open output: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open output: %w", err)
	}
	return f, nil
}

// input is a fifo that stays open when its last writer leaves, until End.
type input struct {
	f     *os.File
	ended atomic.Bool
	close sync.Once
}

var _ sandbox.Input = (*input)(nil)

func openInput(path string) (*input, error) {
	f, err := os.OpenFile(fifoPath(path), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open input: %w", err)
	}
	return &input{f: f}, nil
}

// Read implements io.Reader.
func (i *input) Read(p []byte) (int, error) {
	if !i.ended.Load() {
		n, err := i.f.Read(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	return i.rest(p)
}

// rest reads what is in the fifo now and does not wait for more.
func (i *input) rest(p []byte) (n int, err error) {
	if err = i.f.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	raw, err := i.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno error
	if err = raw.Read(func(fd uintptr) bool {
		n, errno = unix.Read(int(fd), p)
		return true
	}); err != nil {
		return 0, err
	}
	switch {
	case errors.Is(errno, unix.EAGAIN), errno == nil && n == 0:
		return 0, io.EOF
	case errno != nil:
		return 0, &os.PathError{Op: "read", Path: i.f.Name(), Err: errno}
	}
	return n, nil
}

// End implements sandbox.Input: it wakes a Read that waits.
func (i *input) End() {
	i.ended.Store(true)
	_ = i.f.SetReadDeadline(time.Now()) // what has no deadline, a plain file, does not wait either
}

// Close implements io.Closer. It may be called again.
func (i *input) Close() (err error) {
	i.close.Do(func() { err = i.f.Close() })
	return err
}
