package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// The VMM of a sandbox runs in the cgroup that the runtime specification names
// for the first container, so that what it uses counts as the pod's. The limits
// are the pod cgroup's above; none is set here. This is files and directories
// only: the packages that also speak to systemd and load device filters would
// cost the shim a fifth of its memory.

// cgroupPath turns the cgroupsPath of a specification into a path below the
// mount points: "/a/b" stays, "a-b.slice:prefix:name", which systemd is meant to
// understand, becomes "/a.slice/a-b.slice/prefix-name.scope".
func cgroupPath(specified string) (string, error) {
	parts := strings.Split(specified, ":")
	if len(parts) == 3 {
		slice, err := slicePath(parts[0])
		if err != nil {
			return "", err
		}
		unit := parts[2]
		if !strings.HasSuffix(unit, ".slice") {
			unit = parts[1] + "-" + unit + ".scope"
		}
		specified = path.Join(slice, unit)
	}
	clean := path.Join("/", specified)
	if clean == "/" || len(parts) == 2 || len(parts) > 3 {
		return "", fmt.Errorf("cgroupsPath %q names no cgroup of a sandbox: %w", specified, errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

// slicePath unfolds the name of a systemd slice: each dash is a level.
func slicePath(name string) (string, error) {
	base, ok := strings.CutSuffix(name, ".slice")
	if !ok || base == "" || strings.ContainsAny(name, "/") || strings.HasPrefix(base, "-") && base != "-" || strings.HasSuffix(base, "-") && base != "-" || strings.Contains(base, "--") {
		return "", fmt.Errorf("%q is not the name of a slice: %w", name, errdefs.ErrInvalidArgument)
	}
	if base == "-" {
		return "/", nil
	}
	full, prefix := "/", ""
	for _, part := range strings.Split(base, "-") {
		prefix += part
		full = path.Join(full, prefix+".slice")
		prefix += "-"
	}
	return full, nil
}

// hierarchies lists the mount points of the host's cgroup file systems: one of
// version 2, or several of version 1. Of a hybrid layout those of version 1 are
// taken, since that is where the controllers are.
func hierarchies(mountinfo io.Reader) ([]string, error) {
	v1, v2, err := cgroupMounts(mountinfo)
	switch {
	case err != nil:
		return nil, err
	case len(v1) > 0:
		return v1, nil
	case len(v2) > 0:
		return v2[:1], nil
	}
	return nil, fmt.Errorf("no cgroup file system is mounted: %w", errdefs.ErrNotFound)
}

// cgroupMounts lists where cgroup file systems of both versions are mounted.
func cgroupMounts(mountinfo io.Reader) (v1, v2 []string, err error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 {
			continue
		}
		switch kind, _, _ := strings.Cut(after, " "); kind {
		case "cgroup":
			v1 = append(v1, fields[4])
		case "cgroup2":
			v2 = append(v2, fields[4])
		}
	}
	return v1, v2, lines.Err()
}

func hostHierarchies() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return hierarchies(f)
}

// makeCgroup makes the cgroup at path in every hierarchy and returns its topmost
// part that was not there before. On error nothing of it is left.
func makeCgroup(ctx context.Context, path string) (top string, err error) {
	roots, err := hostHierarchies()
	if err != nil {
		return "", fmt.Errorf("make cgroup %s: %w", path, err)
	}
	top = path
	for _, root := range roots {
		made, err := makeIn(root, path)
		if len(made) > 0 && len(made) < len(top) {
			top = made
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("make cgroup %s: %w", path, err), removeCgroup(ctx, path, top))
		}
	}
	return top, nil
}

// makeIn makes the cgroup in one hierarchy, level by level, because a new cpuset
// of version 1 is unusable until it has processors and memory.
func makeIn(root, path string) (top string, err error) {
	at := ""
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		at += "/" + name
		dir := filepath.Join(root, at)
		switch err := os.Mkdir(dir, 0o755); {
		case err == nil && top == "":
			top = at
		case err != nil && !errors.Is(err, fs.ErrExist):
			return top, err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inheritCpuset(dir, file); err != nil {
				return top, err
			}
		}
	}
	return top, nil
}

// inheritCpuset copies a setting from the cgroup above if it is there and empty.
// In version 2 an empty one means all, and is left alone.
func inheritCpuset(dir, file string) error {
	if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
		return nil
	}
	now, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(now)) != "" {
		return nil
	}
	if err != nil {
		return err
	}
	above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), above, 0o644)
}

// cgroupDirs lists the directories of a cgroup, one for each hierarchy.
func cgroupDirs(path string) (dirs []string, err error) {
	roots, err := hostHierarchies()
	for _, root := range roots {
		dirs = append(dirs, filepath.Join(root, path))
	}
	return dirs, err
}

// joinCgroup moves a process with all its threads; what it starts follows.
func joinCgroup(path string, pid int) error {
	dirs, err := cgroupDirs(path)
	if err != nil {
		return fmt.Errorf("move process %d to cgroup %s: %w", pid, path, err)
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("move process %d to cgroup %s: %w", pid, path, err)
		}
	}
	return nil
}

// removeCgroup removes the cgroup, and what is empty above it down from top. It
// waits a little for the last process to be gone. A cgroup that is not there is
// no error.
func removeCgroup(ctx context.Context, path, top string) error {
	roots, err := hostHierarchies()
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, cgroupTimeout)
	defer cancel()
	var errs []error
	for _, root := range roots {
		if err := removeDir(ctx, filepath.Join(root, path)); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", path, err))
			continue
		}
		for up := path; up != top && len(up) > len(top); {
			up = filepath.Dir(up)
			if os.Remove(filepath.Join(root, up)) != nil {
				break // others use it
			}
		}
	}
	return errors.Join(errs...)
}

// removeDir removes a cgroup's directory; the files in it are the kernel's.
func removeDir(ctx context.Context, dir string) error {
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
