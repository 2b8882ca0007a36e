package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Census lists what a cluster holds on the host, by kind: processes, mounts,
// sockets, links, network namespaces, cgroups, directories, snapshots. Things
// of other clusters, and of the host itself, are not in it.
type Census map[string][]string

// Kinds are the keys of every census.
var Kinds = []string{"processes", "mounts", "sockets", "links", "network namespaces", "cgroups", "directories", "snapshots"}

// Census counts what is there now.
func (c *Cluster) Census() (Census, error) {
	marks := append(c.known(), c.Dir, c.name)
	counts := map[string]func([]string) ([]string, error){
		"processes": c.processes, "mounts": mounts, "sockets": c.sockets, "links": c.links,
		"network namespaces": c.namespaces, "cgroups": cgroups, "directories": c.directories, "snapshots": c.snapshots,
	}
	census := Census{}
	for kind, count := range counts {
		found, err := count(marks)
		if err != nil {
			return nil, fmt.Errorf("count %s: %w", kind, err)
		}
		slices.Sort(found)
		census[kind] = slices.Compact(found)
	}
	return census, nil
}

// Minus is what is in a and not in b.
func (a Census) Minus(b Census) Census {
	more := Census{}
	for kind, list := range a {
		for _, item := range list {
			if !slices.Contains(b[kind], item) {
				more[kind] = append(more[kind], item)
			}
		}
	}
	return more
}

func (a Census) String() string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(a)) {
		fmt.Fprintf(&b, "%s:\n", kind)
		for _, item := range a[kind] {
			fmt.Fprintf(&b, "  %s\n", item)
		}
	}
	return b.String()
}

// AwaitGone waits until nothing is there that before did not have, and returns
// what did not go away. A network interface and a cgroup take the kernel a
// moment after their last user.
func (c *Cluster) AwaitGone(ctx context.Context, before Census) (Census, error) {
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	for {
		now, err := c.Census()
		if err != nil {
			return nil, err
		}
		left := now.Minus(before)
		if len(left) == 0 || ctx.Err() != nil {
			return left, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

// OpenFiles counts the descriptors of the daemons, by name.
func (c *Cluster) OpenFiles() (map[string]int, error) {
	counts := map[string]int{}
	for _, d := range c.daemons {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
		if err != nil {
			return nil, err
		}
		counts[d.name] = len(fds)
	}
	return counts, nil
}

func marked(s string, marks []string) bool {
	return slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(s, m) })
}

func (c *Cluster) processes(marks []string) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if len(cmdline) > 0 && (marked(string(cmdline), marks) || marked(string(environ), marks)) {
			words := strings.Fields(strings.ReplaceAll(string(cmdline), "\x00", " "))
			name := strings.Join(words[:min(4, len(words))], " ")
			if !slices.ContainsFunc(c.daemons, func(d *daemon) bool { return d.cmd.Process.Pid == pid }) {
				name = fmt.Sprintf("%d %s", pid, name) // a daemon that was restarted is still the same
			}
			found = append(found, name)
		}
	}
	return found, nil
}

func mounts(marks []string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); marked(line, marks) && len(fields) > 4 {
			found = append(found, fields[4])
		}
	}
	return found, nil
}

// sockets looks for the sockets that are bound to a path of ours, and for the
// shims', whose names are hashes.
func (c *Cluster) sockets(marks []string) ([]string, error) {
	marks = slices.Clone(marks)
	for _, id := range c.known() {
		for _, namespace := range []string{"k8s.io", Namespace} {
			sum := sha256.Sum256([]byte(filepath.Join(c.socket(), namespace, id)))
			marks = append(marks, fmt.Sprintf("%x", sum))
		}
	}
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 8 && marked(fields[7], marks) {
			found = append(found, fields[7])
		}
	}
	files, err := os.ReadDir("/run/containerd/s")
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, f := range files {
		if marked(f.Name(), marks) {
			found = append(found, filepath.Join("/run/containerd/s", f.Name()))
		}
	}
	return found, nil
}

func (c *Cluster) links([]string) ([]string, error) {
	bridge, err := netlink.LinkByName(c.name)
	if err != nil {
		return nil, nil // no pod has been there yet
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, l := range all {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			found = append(found, l.Attrs().Name)
		}
	}
	return found, nil
}

func (c *Cluster) namespaces(marks []string) ([]string, error) {
	var found []string
	for _, dir := range []string{c.dir("state/io.containerd.grpc.v1.cri/netns"), "/run/netns"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); marked(path, marks) {
				found = append(found, path)
			}
		}
	}
	return found, nil
}

func cgroups(marks []string) ([]string, error) {
	roots, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, root := range roots {
		found = append(found, directoriesBelow(root, marks, true)...)
	}
	return found, nil
}

func (c *Cluster) directories(marks []string) ([]string, error) {
	var found []string
	for _, root := range []string{"/run/vc", "/run/kata-containers", c.dir("state"), c.dir("root")} {
		found = append(found, directoriesBelow(root, marks, false)...)
	}
	return found, nil
}

// directoriesBelow lists the directories whose own name carries a mark, and if
// all is set those within them. What vanishes meanwhile is not there.
func directoriesBelow(root string, marks []string, all bool) []string {
	var found []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if marked(d.Name(), marks) || all && marked(path, marks) {
			found = append(found, path)
			if !all {
				return fs.SkipDir
			}
		}
		return nil
	})
	return found
}

func (c *Cluster) snapshots([]string) ([]string, error) {
	var found []string
	for _, dir := range []string{"snapshots", "staging"} {
		entries, err := os.ReadDir(filepath.Join(c.SnapshotterRoot(), dir))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			found = append(found, dir+"/"+e.Name())
		}
	}
	return found, nil
}
