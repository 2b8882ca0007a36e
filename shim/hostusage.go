package shim

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
)

// clockTick is the unit of the times in /proc, in microseconds: USER_HZ is 100 on
// every architecture that has virtual machines.
const clockTick = 10_000

// The fields of /proc/<pid>/stat after the name of the program.
const (
	statUser   = 11
	statSystem = 12
	statRSS    = 21
)

// processMetrics counts what a process of the host uses.
func processMetrics(pid int) (*cgroup2.Metrics, error) {
	if pid == 0 {
		return nil, fmt.Errorf("no machine was started: %w", errdefs.ErrFailedPrecondition)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("process %d: it ended: %w", pid, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	return parseStat(text)
}

// parseStat reads the content of /proc/<pid>/stat.
func parseStat(text []byte) (*cgroup2.Metrics, error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // the name may have anything in it
	if len(fields) <= statRSS {
		return nil, fmt.Errorf("stat has %d fields: %w", len(fields), errdefs.ErrInternal)
	}
	var numbers [3]uint64
	for i, field := range []int{statUser, statSystem, statRSS} {
		n, err := strconv.ParseUint(string(fields[field]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("stat: %w: %w", err, errdefs.ErrInternal)
		}
		numbers[i] = n
	}
	user, system := numbers[0]*clockTick, numbers[1]*clockTick
	return &cgroup2.Metrics{
		CPU:    &cgroup2.CPUStat{UsageUsec: user + system, UserUsec: user, SystemUsec: system},
		Memory: &cgroup2.MemoryStat{Usage: numbers[2] * uint64(os.Getpagesize())},
	}, nil
}
