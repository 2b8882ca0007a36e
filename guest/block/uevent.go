package block

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Uevent is what the kernel tells of a device.
type Uevent struct {
	Action, DevPath, Subsystem, DevName string
}

// ParseUevent reads a message of the kernel: "action@path", then "key=value",
// each with a zero byte at its end.
func ParseUevent(message []byte) (Uevent, bool) {
	head, rest, _ := bytes.Cut(message, []byte{0})
	if _, _, ok := bytes.Cut(head, []byte{'@'}); !ok {
		return Uevent{}, false
	}
	var e Uevent
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "ACTION":
			e.Action = value
		case "DEVPATH":
			e.DevPath = value
		case "SUBSYSTEM":
			e.Subsystem = value
		case "DEVNAME":
			e.DevName = value
		}
	}
	return e, e.Action != "" && e.DevPath != ""
}

// kernelGroup is the multicast group of events from the kernel itself; those of
// udev come in group 2.
const kernelGroup = 1

// Events receives the kernel's uevents.
type Events struct{ f *os.File }

// Listen subscribes to the events from now on.
func Listen() (*Events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen to uevents: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to uevents: %w", err)
	}
	return &Events{f: os.NewFile(uintptr(fd), "uevents")}, nil
}

// Next waits for the next event. If the kernel had to drop some it returns an
// empty one.
func (e *Events) Next(ctx context.Context) (Uevent, error) {
	raw, err := e.f.SyscallConn()
	if err != nil {
		return Uevent{}, err
	}
	e.f.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { e.f.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 16<<10)
	for {
		var n int
		var from unix.Sockaddr
		var recv error
		err := raw.Read(func(fd uintptr) bool {
			n, from, recv = unix.Recvfrom(int(fd), buf, 0)
			return recv != unix.EAGAIN
		})
		if ctx.Err() != nil {
			return Uevent{}, context.Cause(ctx)
		}
		if err != nil {
			return Uevent{}, err
		}
		if recv == unix.ENOBUFS {
			return Uevent{}, nil
		}
		if recv != nil {
			return Uevent{}, recv
		}
		// Only the kernel has port 0; any process may send to the group.
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue
		}
		if event, ok := ParseUevent(buf[:n]); ok {
			return event, nil
		}
	}
}

// Close ends the subscription.
func (e *Events) Close() error { return e.f.Close() }
