package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Input is the stream into a process: a pipe's writing end or a terminal.
type Input struct {
	f        *os.File
	terminal bool // f is shared with the output and stays open
	turn     chan struct{}

	mu     sync.Mutex
	closed bool
}

func newInput(f *os.File, terminal bool) *Input {
	return &Input{f: f, terminal: terminal, turn: make(chan struct{}, 1)}
}

// Write writes all of data, waiting while the process does not read. The count
// is of the bytes written, also with an error.
func (i *Input) Write(ctx context.Context, data []byte) (int, error) {
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	i.mu.Lock()
	closed := i.closed
	i.mu.Unlock()
	if closed {
		return 0, errInputClosed
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		i.f.SetWriteDeadline(time.Unix(1, 0))
		close(woken)
	})
	n, err := i.f.Write(data)
	if !stop() {
		<-woken
		i.f.SetWriteDeadline(time.Time{})
	}
	switch {
	case errors.Is(err, os.ErrClosed):
		return n, errInputClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, context.Cause(ctx)
	}
	return n, err
}

var errInputClosed = fmt.Errorf("Cannot get writer: standard input is closed: %w", errdefs.ErrFailedPrecondition)

// Close says that no more input comes. A terminal only takes no more: closing
// it would end the output too.
func (i *Input) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	if i.terminal {
		return nil
	}
	return i.f.Close()
}
