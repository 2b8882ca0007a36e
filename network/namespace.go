package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The kernel answers EBUSY for a moment while a qdisc is being taken away.
const (
	busyAttempts = 5
	busyPause    = 10 * time.Millisecond // times the attempt
)

// errNoNamespace says that a path names no network namespace (any more).
var errNoNamespace = fmt.Errorf("no network namespace: %w", errdefs.ErrNotFound)

// namespaceDir holds the namespaces that Create makes, and those of CNI;
// namePrefix is what policies expect of a namespace that is not from CNI.
const (
	namespaceDir = "/var/run/netns"
	namePrefix   = "cnitest-"
)

// within runs do on a thread that is in the namespace. The host's own namespace
// is refused: its links are not a pod's to take.
func within(path string, do func(*netlink.Handle) error) error {
	target, err := open(path)
	if err != nil {
		return err
	}
	defer closeNS(target)
	for _, host := range []string{"/proc/thread-self/ns/net", "/proc/1/ns/net"} {
		ns, err := netns.GetFromPath(host)
		if err != nil {
			continue // without /proc of the first process there is nothing to compare with
		}
		same := ns.Equal(target)
		closeNS(ns)
		if same {
			return fmt.Errorf("it is the network namespace of the host: %w", errdefs.ErrInvalidArgument)
		}
	}
	return onThread(func() error {
		if err := netns.Set(target); err != nil {
			return fmt.Errorf("enter: %w", err)
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		return do(h)
	})
}

// In runs do on a thread that is in the network namespace at path, and waits for
// it. What do starts is in the namespace too.
func In(path string, do func() error) error {
	target, err := open(path)
	if err != nil {
		return err
	}
	defer closeNS(target)
	return onThread(func() error {
		if err := netns.Set(target); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return do()
	})
}

// closeNS closes a handle, which cannot fail in a way that matters.
func closeNS(ns netns.NsHandle) { _ = ns.Close() }

func open(path string) (netns.NsHandle, error) {
	var fsys unix.Statfs_t
	err := unix.Statfs(path, &fsys)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fsys.Type != unix.NSFS_MAGIC {
		return netns.None(), fmt.Errorf("%s: %w", path, errNoNamespace)
	}
	if err != nil {
		return netns.None(), &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return netns.GetFromPath(path)
}

// onThread runs do on a thread of its own, which may change its network
// namespace. The thread returns to the old one; if it cannot, it is given up.
func onThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // a goroutine that ends locked takes its thread along
		back, err := leaveAndReturn(do)
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// leaveAndReturn runs do and reports whether the thread is back in its namespace.
func leaveAndReturn(do func() error) (back bool, err error) {
	before, err := netns.Get()
	if err != nil {
		return true, fmt.Errorf("look up own network namespace: %w", err)
	}
	defer closeNS(before)
	err = do()
	return netns.Set(before) == nil, err
}

// Path is where Create puts the namespace of a sandbox.
func Path(sandboxID string) string {
	h := sha256.Sum256([]byte(sandboxID))
	return filepath.Join(namespaceDir, fmt.Sprintf("%s%x-%x-%x-%x-%x", namePrefix, h[:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}

// Create makes a network namespace with nothing but a loopback link, for a
// sandbox that was given none, and returns its path, which is Path's.
func Create(sandboxID string) (string, error) {
	path := Path(sandboxID)
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("create network namespace %s: %w", path, err)
	}
	err := os.MkdirAll(namespaceDir, 0o755)
	if err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if errors.Is(err, fs.ErrExist) {
		return fail(fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists))
	}
	if err != nil {
		return fail(err)
	}
	f.Close()
	err = onThread(func() error { return newNamespace(path) })
	if err != nil {
		return fail(errors.Join(err, os.Remove(path)))
	}
	return path, nil
}

// newNamespace moves the thread into a new namespace, and binds that to path.
func newNamespace(path string) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer closeNS(ns)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up lo: %w", err)
	}
	if err = netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
}

// Delete removes a namespace that Create made. It is idempotent, and refuses any
// other path.
func Delete(path string) error {
	if filepath.Dir(path) != namespaceDir || !strings.HasPrefix(filepath.Base(path), namePrefix) {
		return fmt.Errorf("delete network namespace %s: not one that was created for a sandbox: %w", path, errdefs.ErrInvalidArgument)
	}
	err := unix.Unmount(path, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil // not mounted (any more)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", path, err)
	}
	return nil
}
