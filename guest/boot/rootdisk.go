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
	// of the root disk, which is the guest's first disk.
	rootHashParameter = "kata.root_hash="
	rootDisk          = "/dev/vda"
	rootDevice        = "dm-verity" // its name in the device mapper
	rootFileSystem    = "erofs"
	diskRoot          = "/newroot"
	diskInit          = "/init"

	rootDiskTimeout = 10 * time.Second
	rootDiskPoll    = 5 * time.Millisecond
)

// EnterRootDisk replaces the initial ramdisk by the root disk, whose root hash
// is on the kernel's command line, and this process by the disk's init. It
// returns only if that fails.
//
// Every block that is ever read from the disk is checked. One that does not
// match stops the guest at once with a kernel panic that says so: a file that
// is not read does no harm.
func EnterRootDisk() error {
	err := enterRootDisk()
	return fmt.Errorf("the root disk does not start: %w", err)
}

// RefuseRootHash is for a guest whose ramdisk is all of it: who put a root hash
// on its command line wants the root disk, and must not get less.
func RefuseRootHash(line string) error {
	ramdisk, err := onRamdisk()
	if err != nil || !ramdisk {
		return err
	}
	if _, err := rootHash(line); errors.Is(err, errNoHash) {
		return nil
	}
	return errors.New("the kernel's command line has a root hash, but this initial ramdisk opens no root disk")
}

// onRamdisk says whether the root is what the kernel unpacked.
func onRamdisk() (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return false, fmt.Errorf("look at the root: %w", err)
	}
	return fs.Type == unix.RAMFS_MAGIC || fs.Type == unix.TMPFS_MAGIC, nil
}

var errNoHash = errors.New("no " + rootHashParameter + " on the kernel's command line")

// rootHash finds the root hash on a command line. A second one is refused: it
// would let whoever adds parameters replace the disk.
func rootHash(line string) (string, error) {
	hash, err := "", errNoHash
	for word := range strings.FieldsSeq(line) {
		value, found := strings.CutPrefix(word, rootHashParameter)
		if !found {
			continue
		}
		if err == nil {
			return "", fmt.Errorf("the kernel's command line has two root hashes, %q and %q", hash, value)
		}
		hash, err = value, nil
	}
	return hash, err
}

func enterRootDisk() error {
	if err := mountEarly("proc", "/proc"); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	hash, err := rootHash(string(line))
	if err != nil {
		return err
	}
	if err = mountEarly("devtmpfs", "/dev"); err != nil {
		return err
	}
	if err = loadModules(moduleList); err != nil {
		return err
	}
	if err = awaitDisk(rootDisk); err != nil {
		return err
	}
	if err = mountRootDisk(hash); err != nil {
		return err
	}
	return becomeRoot()
}

// mountRootDisk mounts the disk at [diskRoot].
func mountRootDisk(hash string) error {
	device, err := devmapper.OpenVerity(context.Background(), rootDisk, rootDevice, hash, "panic_on_corruption")
	if err != nil {
		return err
	}
	if err = os.MkdirAll(diskRoot, 0o755); err != nil {
		return err
	}
	if err = unix.Mount(device.Path, diskRoot, rootFileSystem, unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s as %s: %w", device.Path, rootFileSystem, err)
	}
	return nil
}

// becomeRoot makes what is at [diskRoot] the root, and this process its init.
func becomeRoot() error {
	for _, dir := range []string{"/proc", "/dev"} {
		if err := unix.Mount(dir, diskRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root disk: %w", dir, err)
		}
	}
	dropRamdisk()
	if err := unix.Chdir(diskRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root disk over the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("make the root disk the root: %w", err)
	}
	// Without the variables, which are words of the kernel's command line.
	err := unix.Exec(diskInit, []string{diskInit}, nil)
	return fmt.Errorf("start %s of the root disk: %w", diskInit, err)
}

// dropRamdisk gives the memory of the ramdisk's files back. What cannot be
// removed only costs memory.
func dropRamdisk() {
	for _, name := range []string{diskInit, "/lib"} {
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
