// Package boot makes a guest out of a freshly started kernel: it is what an init
// does before its first service, and after its last.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where the unified cgroup hierarchy is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// SearchPath is the PATH of the agent and of what it starts.
const SearchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// fileSystem is a file system of the kernel that every guest has.
type fileSystem struct {
	target, fstype string
	flags          uintptr
	data           string
}

var fileSystems = []fileSystem{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=1777"},
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{cgroupRoot, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
}

// Init makes the guest: modules, file systems, cgroups, loopback link, host
// name. Modules come first, since a file system may be one.
func Init() error {
	unix.Umask(0)
	if err := loadModules(moduleList); err != nil {
		return err
	}
	for _, f := range fileSystems {
		if err := os.MkdirAll(f.target, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", f.target, err)
		}
		if err := unix.Mount(f.fstype, f.target, f.fstype, f.flags, f.data); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s at %s: %w", f.fstype, f.target, err)
		}
	}
	if err := makeLinks(); err != nil {
		return err
	}
	if err := enableControllers(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// New memory is used as it is plugged; a kernel without hot-plug has no such file.
	_ = os.WriteFile("/sys/devices/system/memory/auto_online_blocks", []byte("online"), 0)
	if err := os.Setenv("PATH", SearchPath); err != nil {
		return err
	}
	_, _ = unix.Setsid() // refused if the kernel has done so
	unix.Umask(0o022)
	return setHostname()
}

// makeLinks makes what programs expect in a guest's tree.
func makeLinks() error {
	for _, l := range [][2]string{
		{"pts/ptmx", "/dev/ptmx"}, {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}, {"/run", "/var/run"},
	} {
		if err := os.MkdirAll(filepath.Dir(l[1]), 0o755); err != nil {
			return err
		}
		// devtmpfs has a node of the name ptmx, which belongs to no devpts.
		if info, err := os.Lstat(l[1]); err == nil && info.Mode()&os.ModeDevice != 0 {
			if err := os.Remove(l[1]); err != nil {
				return err
			}
		}
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// The pod's name servers are bound over it.
	f, err := os.OpenFile("/etc/resolv.conf", os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// enableControllers hands every controller of the kernel to the groups below the
// root, one by one, so that a refused one does not keep the others away.
func enableControllers() error {
	controllers, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the cgroup controllers: %w", err)
	}
	for c := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enable cgroup controller %s: %w", c, err)
		}
	}
	return nil
}

// loopbackUp is done by the oldest of the kernel's interfaces, whose library is
// none: this package is part of the root disk's opener, which is to be small.
func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set the loopback link up: %w", err)
	}
	defer unix.Close(socket)
	link, err := unix.NewIfreq("lo")
	if err == nil {
		err = unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, link)
	}
	if err == nil {
		link.SetUint16(link.Uint16() | unix.IFF_UP)
		err = unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, link)
	}
	if err != nil {
		return fmt.Errorf("set the loopback link up: %w", err)
	}
	return nil
}

func setHostname() error {
	name := "localhost"
	if data, err := os.ReadFile("/etc/hostname"); err == nil {
		if n := strings.TrimSpace(string(data)); n != "" {
			name = n
		}
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set the host name %q: %w", name, err)
	}
	return nil
}
