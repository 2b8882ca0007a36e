// Command init is the first program of a guest in the boot test: it does with
// the image what the agent and people do, says how that went on the console,
// and powers the machine off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("init: reached")
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, 0, ""); err != nil {
			fmt.Printf("init: mount %s: %v\n", m.target, err)
		}
	}
	if err := loadModules(); err != nil {
		fmt.Printf("init: modules: %v\n", err)
	} else {
		fmt.Println("init: modules loaded")
	}
	for _, command := range []string{
		"crun --version | head -n 1",
		"dmsetup ls",
		"dmsetup targets | grep verity | cut -d ' ' -f 1",
		"grep -w -e overlay -e fuse -e ext4 /proc/filesystems | tr -d '\\t' | sort | tr '\\n' ' '",
		"modprobe erofs && grep -w erofs /proc/filesystems",
		"lsmod | grep -c virtio",
		"ls -l /dev/console /dev/mapper/control | cut -c 1",
		"grep -e MemTotal -e MemAvailable /proc/meminfo",
	} {
		cmd := exec.Command("/bin/sh", "-c", command)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		out, err := cmd.CombinedOutput()
		fmt.Printf("init: %s: %s", command, strings.Join(strings.Fields(string(out)), " "))
		if err != nil {
			fmt.Printf(" (%v)", err)
		}
		fmt.Println()
	}
	fmt.Println("init: done")
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("init: power off:", err)
	}
}

func loadModules() error {
	list, err := os.ReadFile("/etc/kata-agent/modules")
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range strings.Fields(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// ENODEV: an accelerator whose instructions this processor lacks.
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
		f.Close()
	}
	return errors.Join(errs...)
}
