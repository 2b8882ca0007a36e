package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/devmapper"
)

const (
	// rootHashParameter of the kernel's command line is the dm-verity root hash
	// of the root image, which is the guest's first disk.
	rootHashParameter = "kata.root_hash="
	rootDisk          = "/dev/vda"
	rootDevice        = "dm-verity" // its name in the device mapper
	rootFileSystem    = "erofs"
	imageRoot         = "/newroot"
	imageInit         = "/init"

	rootDiskTimeout = 10 * time.Second
	rootDiskPoll    = 5 * time.Millisecond
)

// errNoRoot says that what follows is the guest's root image.
var errNoRoot = errors.New("the root image does not start")

// EnterImage replaces the initial ramdisk by the root image, if the kernel's
// command line has its root hash, and this process by the image's init. It
// returns nil if there is no such hash or the image has been entered.
//
// Every block that is ever read from the image is checked. One that does not
// match stops the guest at once with a kernel panic that says so: a file that
// is not read does no harm.
func EnterImage() error {
	if ramdisk, err := onRamdisk(); err != nil || !ramdisk {
		return err
	}
	if err := mountEarly("proc", "/proc"); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	hash, there, err := rootHash(string(line))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errNoRoot, err)
	case !there:
		return unix.Unmount("/proc", 0)
	}
	if err := enterImage(hash); err != nil {
		return fmt.Errorf("%w: %w", errNoRoot, err)
	}
	return nil
}

// onRamdisk says whether the root is what the kernel unpacked.
func onRamdisk() (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return false, fmt.Errorf("look at the root: %w", err)
	}
	return fs.Type == unix.RAMFS_MAGIC || fs.Type == unix.TMPFS_MAGIC, nil
}

// rootHash finds the root hash on a command line. A second one is refused: it
// would let whoever adds parameters replace the image.
func rootHash(line string) (hash string, there bool, err error) {
	for word := range strings.FieldsSeq(line) {
		value, found := strings.CutPrefix(word, rootHashParameter)
		if !found {
			continue
		}
		if there {
			return "", false, fmt.Errorf("the kernel's command line has two root hashes, %q and %q", hash, value)
		}
		hash, there = value, true
	}
	return hash, there, nil
}

func enterImage(hash string) error {
	if err := mountEarly("devtmpfs", "/dev"); err != nil {
		return err
	}
	if err := loadModules(moduleList); err != nil {
		return err
	}
	if err := awaitDisk(rootDisk); err != nil {
		return err
	}
	device, err := devmapper.OpenVerity(context.Background(), rootDisk, rootDevice, hash, "panic_on_corruption")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(imageRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device.Path, imageRoot, rootFileSystem, unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s as %s: %w", device.Path, rootFileSystem, err)
	}
	for _, dir := range []string{"/proc", "/dev"} {
		if err := unix.Mount(dir, imageRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root image: %w", dir, err)
		}
	}
	dropRamdisk()
	if err := unix.Chdir(imageRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root image over the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("make the root image the root: %w", err)
	}
	if err := unix.Exec(imageInit, []string{imageInit}, os.Environ()); err != nil {
		return fmt.Errorf("start %s of the root image: %w", imageInit, err)
	}
	return nil
}

// dropRamdisk gives the memory of the ramdisk's files back. What cannot be
// removed only costs memory.
func dropRamdisk() {
	for _, name := range []string{imageInit, "/lib"} {
		_ = os.RemoveAll(name)
	}
}

func mountEarly(kind, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, target, kind, unix.MS_NOSUID, ""); err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount %s at %s: %w", kind, target, err)
	}
	return nil
}

// awaitDisk waits until the kernel has found a disk.
func awaitDisk(path string) error {
	for end := time.Now().Add(rootDiskTimeout); ; time.Sleep(rootDiskPoll) {
		_, err := os.Stat(path)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no root disk after %v: %w", rootDiskTimeout, err)
		}
	}
}
