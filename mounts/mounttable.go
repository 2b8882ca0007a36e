package mounts

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// subPaths is the directory in which the kubelet binds subPaths, as
// <pod>/volume-subpaths/<volume>/<container>/<index>.
const subPaths = "volume-subpaths"

// mountTable is the host's mounts, read when first asked for.
type mountTable struct {
	read   bool
	mounts []*mountinfo.Info
}

// describe adds what only the mounts tell: the size that a tmpfs was given, the
// image that is served by FUSE, and the volume behind a subPath.
func (t *mountTable) describe(path string, fuse bool, s *Source) error {
	volume, pod := subPathVolume(path)
	if volume == "" && !s.Tmpfs && !fuse {
		return nil
	}
	if !t.read {
		mounts, err := mountinfo.GetMounts(nil)
		if err != nil {
			return fmt.Errorf("read the host's mounts: %w", err)
		}
		t.mounts, t.read = mounts, true
	}
	m := t.at(path)
	if m == nil {
		return nil
	}
	if s.Tmpfs {
		s.Size = sizeOption(m.VFSOptions)
	}
	// Who may mount a FUSE of its own can give it any name, but not root's.
	if fuse && strings.Contains(","+m.VFSOptions+",", ",user_id=0,") {
		if s.Image = parseImage(m.Source); s.Image != nil {
			below, err := filepath.Rel(m.Mountpoint, path)
			if err != nil {
				return err
			}
			s.Image.Below = filepath.Join("/", m.Root, below)
		}
	}
	if volume == "" || m.Mountpoint != filepath.Clean(path) {
		return nil
	}
	// On the volume's own file system the root is the path below the volume, else
	// it ends with the volume's directory and that path.
	dir := filepath.Join(pod, "volumes", emptyDirParent, volume)
	if below, ok := strings.CutPrefix(m.Root, pathOn(t.at(dir), dir)+"/"); ok && t.same(m, dir) {
		s.EmptyDir, s.SubPath = volume, below
	}
	return nil
}

// subPathVolume takes the path of a bound subPath apart; empty: it is none.
func subPathVolume(path string) (volume, pod string) {
	parts := strings.Split(filepath.Clean(path), "/")
	n := len(parts)
	if n < 5 || parts[n-4] != subPaths {
		return "", ""
	}
	return parts[n-3], strings.Join(parts[:n-4], "/")
}

// at is the mount that a path lies on, the latest of those at one point.
func (t *mountTable) at(path string) *mountinfo.Info {
	var best *mountinfo.Info
	for _, m := range t.mounts {
		if within(path, m.Mountpoint) || m.Mountpoint == "/" {
			if best == nil || len(m.Mountpoint) >= len(best.Mountpoint) {
				best = m
			}
		}
	}
	return best
}

// same says whether a mount is of the file system that a path lies on.
func (t *mountTable) same(m *mountinfo.Info, path string) bool {
	other := t.at(path)
	return other != nil && other.Major == m.Major && other.Minor == m.Minor
}

// pathOn is a path as its file system knows it.
func pathOn(m *mountinfo.Info, path string) string {
	if m == nil {
		return path
	}
	rel, err := filepath.Rel(m.Mountpoint, path)
	if err != nil {
		return path
	}
	return strings.TrimSuffix(filepath.Join(m.Root, rel), "/")
}

// sizeOption reads the size of a tmpfs, which the kernel tells in KiB.
func sizeOption(options string) uint64 {
	for o := range strings.SplitSeq(options, ",") {
		if v, ok := strings.CutPrefix(o, "size="); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(v, "k"), 10, 53)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}
