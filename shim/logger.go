package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// logger is a program that takes a process's output: its descriptors 3 and 4 are
// standard output and error, and it closes descriptor 5 when it is ready.
type logger struct {
	cmd    *exec.Cmd
	exited chan struct{}

	mu   sync.Mutex
	open int // streams not closed yet
}

// loggerStream is one of the two streams to a logger.
type loggerStream struct {
	*os.File
	logger *logger
	once   sync.Once
}

// startLogger runs the program of a "binary://" address and returns its streams.
// The query's keys and values are its arguments.
func startLogger(ctx context.Context, u *url.URL, namespace, container string) (stdout, stderr io.WriteCloser, err error) {
	var args []string
	query := u.Query()
	for _, key := range slices.Sorted(maps.Keys(query)) {
		args = append(args, key)
		if v := query.Get(key); v != "" {
			args = append(args, v)
		}
	}
	var theirs, ours []*os.File
	closeTheirs := func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		theirs = nil
	}
	defer func() {
		closeTheirs()
		if err != nil {
			for _, f := range ours {
				_ = f.Close()
			}
			err = fmt.Errorf("start logger %s: %w", u.Path, err)
		}
	}()
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		if i == 2 { // the one it writes to
			r, w = w, r
		}
		theirs, ours = append(theirs, r), append(ours, w)
	}
	l := &logger{cmd: exec.Command(u.Path, args...), exited: make(chan struct{}), open: 2}
	l.cmd.Env = []string{"CONTAINER_ID=" + container, "CONTAINER_NAMESPACE=" + namespace}
	l.cmd.ExtraFiles = theirs
	if err := l.cmd.Start(); err != nil {
		return nil, nil, err
	}
	go func() {
		_ = l.cmd.Wait() // whatever it says, it has ended
		close(l.exited)
	}()
	closeTheirs() // or the end of the last one would never be seen
	if err := l.ready(ctx, ours[2]); err != nil {
		_ = l.cmd.Process.Kill()
		return nil, nil, err
	}
	return &loggerStream{File: ours[0], logger: l}, &loggerStream{File: ours[1], logger: l}, nil
}

// ready waits for the program to say that it is ready.
func (l *logger) ready(ctx context.Context, r *os.File) error {
	defer r.Close()
	ctx, cancel := context.WithTimeout(ctx, loggerReady)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	_, err := r.Read(make([]byte, 1))
	if err == nil || errors.Is(err, io.EOF) {
		select {
		case <-l.exited:
			return fmt.Errorf("it ended at once: %w", errdefs.ErrFailedPrecondition)
		default:
			return nil
		}
	}
	return fmt.Errorf("it does not say that it is ready: %w", err)
}

// Close ends the stream; the last one waits for the program's end.
func (s *loggerStream) Close() (err error) {
	s.once.Do(func() {
		err = s.File.Close()
		s.logger.mu.Lock()
		s.logger.open--
		last := s.logger.open == 0
		s.logger.mu.Unlock()
		if last {
			s.logger.stop()
		}
	})
	return err
}

// stop lets the program read to the end and write it down before it is told to go.
func (l *logger) stop() {
	for _, step := range []struct {
		limit  time.Duration
		signal os.Signal
	}{{loggerDrain, syscall.SIGTERM}, {loggerStop, syscall.SIGKILL}} {
		select {
		case <-l.exited:
			return
		case <-time.After(step.limit):
			_ = l.cmd.Process.Signal(step.signal)
		}
	}
	<-l.exited
}
