package copyfile

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// strict is how directories are walked: no symbolic link is followed and no
// mount entered. A link of the host's may lead to where a container's root is
// mounted, and files are copied to no container's root.
const strict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// parent opens a directory below [Files.dir]. Directories that are missing are
// made, the innermost with the mode.
func (f *Files) parent(dir string, mode os.FileMode) (*os.Root, error) {
	at, err := unix.Open(f.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.dir, err)
	}
	defer func() { unix.Close(at) }()
	names := strings.Split(dir, "/")
	for i, name := range names {
		next, made, err := enter(at, name)
		if err != nil {
			return nil, fmt.Errorf("enter %s of %s: %w", name, dir, err)
		}
		unix.Close(at)
		at = next
		if made && mode != 0 && i == len(names)-1 {
			if err = os.Chmod(procFD(at), mode); err != nil {
				return nil, err
			}
		}
	}
	return os.OpenRoot(procFD(at))
}

// enter opens a directory in the directory at, and makes it if it is missing.
func enter(at int, name string) (fd int, made bool, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: strict}
	if fd, err = unix.Openat2(at, name, &how); err != unix.ENOENT {
		return fd, false, err
	}
	if err = unix.Mkdirat(at, name, 0o755); err != nil && err != unix.EEXIST {
		return -1, false, err
	}
	made = err == nil
	fd, err = unix.Openat2(at, name, &how)
	return fd, made, err
}

// procFD is a path of what a descriptor is open on, whatever has its name now.
func procFD(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
