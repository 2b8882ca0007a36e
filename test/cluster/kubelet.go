package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/internal/undo"
)

// PodDir is a pod's directory as a kubelet keeps it: <root>/pods/<uid>.
type PodDir struct {
	Dir  string
	undo undo.Stack
	n    int               // revisions written
	last map[string]string // revision of each volume, by its directory
}

// Kinds of volumes whose content a kubelet writes and updates.
const (
	ConfigMap   = "kubernetes.io~configmap"
	Secret      = "kubernetes.io~secret"
	Projected   = "kubernetes.io~projected"
	DownwardAPI = "kubernetes.io~downward-api"

	emptyDir = "kubernetes.io~empty-dir"
)

// NewPodDir makes the directory of a pod, which the caller must Remove.
func (c *Cluster) NewPodDir(p Pod) (*PodDir, error) {
	d := &PodDir{Dir: c.dir(filepath.Join("kubelet", "pods", "5c0e9a2e-1d37-4f43-a0a2-"+fmt.Sprintf("%.12x", p.Name+"------------"))), last: map[string]string{}}
	if err := os.MkdirAll(d.Dir, 0o750); err != nil {
		return nil, err
	}
	d.undo.Add(func(context.Context) error { return os.RemoveAll(d.Dir) })
	return d, nil
}

// Remove takes everything away again.
func (d *PodDir) Remove(ctx context.Context) error { return d.undo.Run(ctx) }

// Write gives a volume new content and returns its directory: first a directory
// with all of it, then the link to that, then links of new keys; what is old goes
// last. Secrets and projected volumes lie in memory.
func (d *PodDir) Write(kind, name string, files map[string]string) (string, error) {
	dir := filepath.Join(d.Dir, "volumes", kind, name)
	if _, err := os.Stat(dir); err != nil {
		if err := d.makeVolume(dir, kind == Secret || kind == Projected, ""); err != nil {
			return "", err
		}
	}
	d.n++
	revision := fmt.Sprintf("..2026_01_02_03_04_05.%09d", d.n)
	keys := map[string]bool{}
	for file, content := range files {
		path := filepath.Join(dir, revision, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			return "", err
		}
		key, _, _ := strings.Cut(file, "/")
		keys[key] = true
	}
	link := filepath.Join(dir, "..data")
	if err := errors.Join(os.Symlink(revision, link+"_tmp"), os.Rename(link+"_tmp", link)); err != nil {
		return "", err
	}
	for key := range keys {
		if err := os.Symlink(filepath.Join("..data", key), filepath.Join(dir, key)); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !keys[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return "", err
			}
		}
	}
	if old := d.last[dir]; old != "" {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			return "", err
		}
	}
	d.last[dir] = revision
	return dir, nil
}

// EmptyDir makes an emptyDir; with a size it is of medium Memory.
func (d *PodDir) EmptyDir(name string, bytes int64) (string, error) {
	dir := filepath.Join(d.Dir, "volumes", emptyDir, name)
	options := ""
	if bytes > 0 {
		options = fmt.Sprintf("size=%d", bytes)
	}
	return dir, errors.Join(d.makeVolume(dir, bytes > 0, options), os.Chmod(dir, 0o777))
}

// HugePages makes an emptyDir of pages of 2 MiB.
func (d *PodDir) HugePages(name string) (string, error) {
	dir := filepath.Join(d.Dir, "volumes", emptyDir, name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	return dir, d.mount("nodev", dir, "hugetlbfs", 0, "pagesize=2M")
}

// LimitHugePages sets how much of pages of 2 MiB the pods of the cluster may use,
// on their cgroup.
func (d *PodDir) LimitHugePages(c *Cluster, bytes int64) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	errs := []error{errors.New("no hierarchy has it")}
	for _, root := range roots {
		for _, name := range []string{"hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"} {
			file := filepath.Join(root, c.cgroupParent(), name)
			before, err := os.ReadFile(file)
			if err == nil {
				d.undo.Add(func(context.Context) error { return os.WriteFile(file, before, 0) })
				return os.WriteFile(file, []byte(strconv.FormatInt(bytes, 10)), 0)
			}
			if !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (d *PodDir) makeVolume(dir string, memory bool, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil || !memory {
		return err
	}
	return d.mount("tmpfs", dir, "tmpfs", 0, options)
}

func (d *PodDir) mount(source, target, fstype string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, fstype, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	d.undo.Add(func(context.Context) error { return unix.Unmount(target, unix.MNT_DETACH) })
	return nil
}

// SubPath binds a file or directory of a volume, making a directory if there is
// nothing, for the mount number i of a container.
func (d *PodDir) SubPath(volume, path, container string, i int) (string, error) {
	source, err := filepath.EvalSymlinks(filepath.Join(volume, path))
	if errors.Is(err, os.ErrNotExist) {
		source = filepath.Join(volume, path)
		err = os.MkdirAll(source, 0o777)
	}
	if err != nil {
		return "", err
	}
	target := filepath.Join(d.Dir, "volume-subpaths", filepath.Base(volume), container, fmt.Sprint(i))
	info, err := os.Stat(source)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, nil, 0o644))
	}
	if err != nil {
		return "", err
	}
	return target, d.mount(source, target, "", unix.MS_BIND, "")
}

// File writes a file of the pod, such as etc-hosts.
func (d *PodDir) File(name, content string) (string, error) {
	path := filepath.Join(d.Dir, name)
	return path, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
}

// TerminationLog makes the file for a container's last words.
func (d *PodDir) TerminationLog(container string) (string, error) {
	path, err := d.File(filepath.Join("containers", container, "0a1b2c3d"), "")
	return path, errors.Join(err, os.Chmod(path, 0o666))
}

// ServiceAccount is the path at which containers find their token.
const ServiceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// UsualMounts are those that a kubelet gives every container: a token, hosts and
// the termination log. hostname and resolv.conf are containerd's.
func (d *PodDir) UsualMounts(pod, container string) ([]Mount, error) {
	token, err1 := d.Write(Projected, "kube-api-access", map[string]string{
		"token": "token of " + pod + "\n", "ca.crt": "certificate of the cluster\n", "namespace": "default",
	})
	hosts, err2 := d.File("etc-hosts", "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	last, err3 := d.TerminationLog(container)
	return []Mount{
		{Host: token, Container: ServiceAccount, ReadOnly: true},
		{Host: hosts, Container: "/etc/hosts"},
		{Host: last, Container: "/dev/termination-log"},
	}, errors.Join(err1, err2, err3)
}
