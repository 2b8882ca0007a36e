//go:build linux

// Command testguest is the init process of the guest that the tests of package
// qemu boot. It loads the guest image's kernel modules and serves one command a
// line on vsock port 1024:
//
//	disks        one line a disk: its device directory and serial number
//	net          one line a network card: its device directory and address
//	read N       the first byte count and SHA-256 of /dev/N
//	addr N A     gives the network card N the IPv4 address A (with prefix length)
//	has F        fails if the guest has no file F
//	print F W    writes the word W and a newline to F
//	cpus, memory the number of processors in use, the bytes of memory
//	online       brings plugged processors and memory into use
//	poweroff, reboot, panic
//
// Every answer ends with an empty line. What comes on UDP port 7
// or on vsock port 7 is sent back.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/mdlayher/vsock"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("testguest:", run())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ fstype, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.dir, m.fstype, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := loadModules("/etc/kata-agent/modules"); err != nil {
		return err
	}
	streams, err := vsock.Listen(7, nil)
	if err != nil {
		return fmt.Errorf("listen on vsock port 7: %w", err)
	}
	go echoStreams(streams)
	go echo()
	l, err := vsock.Listen(1024, nil)
	if err != nil {
		return fmt.Errorf("listen on vsock port 1024: %w", err)
	}
	fmt.Println("testguest: ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go serve(c)
	}
}

func loadModules(list string) error {
	names, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	for name := range strings.Lines(string(names)) {
		f, err := os.Open(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load module %s: %w", strings.TrimSpace(name), err)
		}
	}
	return nil
}

func echoStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func echo() {
	conn, err := net.ListenPacket("udp4", ":7")
	if err != nil {
		fmt.Println("testguest:", err)
		return
	}
	for b := make([]byte, 64<<10); ; {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(b[:n], from)
	}
}

func serve(c net.Conn) {
	defer c.Close()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		answer, err := command(strings.Fields(lines.Text()))
		if err != nil {
			answer = "error: " + err.Error() + "\n"
		}
		if _, err := io.WriteString(c, answer+"\n"); err != nil {
			return
		}
	}
}

func command(words []string) (string, error) {
	if len(words) == 0 {
		return "", nil
	}
	switch {
	case words[0] == "disks":
		return devices("/sys/block/vd*", "serial")
	case words[0] == "net":
		return devices("/sys/class/net/e*", "address")
	case words[0] == "read" && len(words) == 2:
		return sum("/dev/" + words[1])
	case words[0] == "addr" && len(words) == 3:
		return "", setAddress(words[1], words[2])
	case words[0] == "has" && len(words) == 2:
		_, err := os.Stat(words[1])
		return "", err
	case words[0] == "print" && len(words) == 3:
		return "", os.WriteFile(words[1], []byte(words[2]+"\n"), 0)
	case words[0] == "cpus":
		var set unix.CPUSet
		err := unix.SchedGetaffinity(0, &set)
		return fmt.Sprintln(set.Count()), err
	case words[0] == "online":
		return "", online()
	case words[0] == "memory":
		var info unix.Sysinfo_t
		err := unix.Sysinfo(&info)
		return fmt.Sprintln(info.Totalram * uint64(info.Unit)), err
	case words[0] == "poweroff":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case words[0] == "reboot":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case words[0] == "panic":
		return "", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	return "", fmt.Errorf("unknown command %q", words)
}

// online brings into use what is offline.
func online() error {
	var files []string
	for _, dir := range []string{"cpu", "memory"} {
		found, err := filepath.Glob("/sys/devices/system/" + dir + "/" + dir + "[0-9]*/online")
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err != nil || strings.TrimSpace(string(text)) != "0" {
			continue
		}
		if err := os.WriteFile(f, []byte("1"), 0); err != nil {
			return err
		}
	}
	return nil
}

func devices(pattern, attribute string) (string, error) {
	links, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, link := range links {
		dir, err := filepath.EvalSymlinks(link)
		if err != nil {
			return "", err
		}
		value, err := os.ReadFile(filepath.Join(dir, attribute))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %s\n", dir, strings.TrimSpace(string(value)))
	}
	return b.String(), nil
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %x\n", n, h.Sum(nil)), nil
}

func setAddress(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}
