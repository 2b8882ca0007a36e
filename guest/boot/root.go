package boot

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// newRoot is where the root is bound before it is moved onto itself.
const newRoot = "/run/root"

// MakeRootPivotable puts a mount of the root over the root. The kernel lets
// nobody pivot away from the initial root file system itself, which is what an
// initrd is unpacked into; from a mount on top of it, containers can.
//
// Nothing is copied, so it costs no memory. A root image is a mount already.
func MakeRootPivotable() error {
	if ramdisk, err := onRamdisk(); err != nil || !ramdisk {
		return err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", newRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the bound root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the bound root over the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("make the bound root the root: %w", err)
	}
	return unix.Chdir("/")
}

// OpenConsole makes the console the standard streams, if the kernel could not:
// an initrd may have no device node.
func OpenConsole() {
	var st unix.Stat_t
	if unix.Fstat(1, &st) == nil {
		return
	}
	_ = os.MkdirAll("/dev", 0o755)
	_ = unix.Mknod("/dev/console", unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1)))
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for std := range 3 {
		if fd != std {
			_ = unix.Dup2(fd, std)
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

// lastWords is how long the kernel's workers get to hand what was written last
// (the answer to the host, lines on the console) to the devices.
const lastWords = 20 * time.Millisecond

// PowerOff writes everything out and switches the machine off. It returns only
// if the kernel refuses.
func PowerOff() error {
	unix.Sync()
	time.Sleep(lastWords)
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// Uptime is how long the kernel has run.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
