// Package cgroup reads and steers one cgroup of the unified (v2) hierarchy. A
// controller that the kernel lacks reads as nothing.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where the hierarchy is mounted.
const Root = "/sys/fs/cgroup"

const (
	freezeTimeout = 10 * time.Second
	freezePoll    = 5 * time.Millisecond
)

// Cgroup is one group, by its directory.
type Cgroup struct{ dir string }

// New is the group at path, which is absolute below the root of the hierarchy.
func New(path string) Cgroup { return Cgroup{dir: filepath.Join(Root, path)} }

// Pids lists the processes in the group and below it, in the agent's pid namespace.
func (c Cgroup) Pids() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			return err
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// Signal sends a signal to every process of the group and below it.
func (c Cgroup) Signal(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return c.Kill()
	}
	pids, err := c.Pids()
	if err != nil {
		return fmt.Errorf("list the processes of %s: %w", c.dir, err)
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("send signal %d to process %d: %w", sig, pid, err))
		}
	}
	return errors.Join(errs...)
}

// Kill kills every process of the group and below it, those being forked
// included. A group that does not exist has none.
func (c Cgroup) Kill() error {
	err := c.write("cgroup.kill", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Freeze stops every process of the group, or lets them go on, and returns when
// that is so.
func (c Cgroup) Freeze(ctx context.Context, frozen bool) error {
	want := "0"
	if frozen {
		want = "1"
	}
	if err := c.write("cgroup.freeze", want); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	for {
		events, err := c.table("cgroup.events")
		if err != nil {
			return err
		}
		if strconv.FormatUint(events["frozen"], 10) == want {
			return nil
		}
		select {
		case <-time.After(freezePoll):
		case <-ctx.Done():
			if frozen {
				_ = c.write("cgroup.freeze", "0")
			}
			return fmt.Errorf("freeze %s: the kernel did not report frozen %s: %w", c.dir, want, context.Cause(ctx))
		}
	}
}

func (c Cgroup) write(name, value string) error {
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(value), 0); err != nil {
		return fmt.Errorf("write %q to cgroup file: %w", value, err)
	}
	return nil
}

// table reads a file of lines "key number"; a file that is not there is empty.
func (c Cgroup) table(name string) (map[string]uint64, error) {
	data, err := c.read(name)
	return ParseTable(data), err
}

func (c Cgroup) read(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}

// number reads a file with one number; "max" and a file that is not there are 0.
func (c Cgroup) number(name string) (uint64, error) {
	data, err := c.read(name)
	if err != nil {
		return 0, err
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(data), 10, 64)
	return n, nil
}
