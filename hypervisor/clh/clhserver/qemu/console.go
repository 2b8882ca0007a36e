package qemu

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"golang.org/x/sys/unix"
)

// socketPair gives a stream's two ends, both closed on exec.
func socketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair for the %s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// consoles are what the guest prints, on its way to its readers.
type consoles struct {
	copies sync.WaitGroup
}

// open starts to copy c's output and gives QEMU's end of it; nil where nothing
// is to be read.
func (s *consoles) open(name string, c clhserver.Console) (*os.File, error) {
	if c.Out == nil || c.Out == io.Discard {
		return nil, nil
	}
	ours, theirs, err := socketPair(name)
	if err != nil {
		return nil, err
	}
	s.copies.Go(func() {
		defer ours.Close()
		if _, err := io.Copy(c.Out, ours); err != nil {
			// The reader is gone. The guest goes on, and must not block on us.
			_, _ = io.Copy(io.Discard, ours)
		}
	})
	return theirs, nil
}

// drain waits, for a bounded time, until everything that was printed is with its
// readers. QEMU has ended by then.
func (s *consoles) drain() {
	done := make(chan struct{})
	go func() {
		s.copies.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(drainTimeout):
	}
}
