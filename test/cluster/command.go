package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
)

// CommandError says which command failed and what it printed.
type CommandError struct {
	Command string
	Output  string // both streams, in the order they were written
	Err     error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s: %v\n%s", e.Command, e.Err, strings.TrimSpace(e.Output))
}

func (e *CommandError) Unwrap() error { return e.Err }

// ExitCode is the exit status of a command that Run, Shell or Exec reported as
// failed; -1 if it never ran or was killed.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// Run runs a command in the cluster's environment, where crictl, ctr and
// kata-runtime find their way by themselves, and returns its standard output.
func (c *Cluster) Run(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, "", args...)
}

// Shell runs a line of shell likewise.
func (c *Cluster) Shell(ctx context.Context, line string) (string, error) {
	return c.run(ctx, "", "/bin/bash", "-o", "pipefail", "-c", line)
}

func (c *Cluster) run(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	program, err := lookPath(args[0], c.Paths.search())
	if strings.Contains(args[0], "/") {
		program, err = args[0], nil
	}
	if err != nil {
		return "", err
	}
	var out output
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Env, cmd.Dir = c.Env(), c.Dir
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &stdout{&out}, &out
	cmd.WaitDelay = waitDelay
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		return out.stdout.String(), &CommandError{Command: strings.Join(args, " "), Output: out.both.String(), Err: err}
	}
	return out.stdout.String(), nil
}

// output gathers what a command prints: its standard output, and both streams
// as a terminal would show them.
type output struct {
	mu           sync.Mutex
	stdout, both bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.both.Write(p)
}

type stdout struct{ *output }

func (s *stdout) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stdout.Write(p)
	return s.both.Write(p)
}
