package network

import (
	"errors"
	"fmt"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
)

var tapPattern = regexp.MustCompile(`^tap[0-9]+_kata$`)

func tapName(index int) string { return fmt.Sprintf("tap%d_kata", index) }
func isTap(name string) bool   { return tapPattern.MatchString(name) }

// openTap makes a tap with one queue in the thread's network namespace. It is
// gone when the last descriptor is closed.
func openTap(name string) (*os.File, error) {
	const device = "/dev/net/tun"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make tap %s: %w", name, &os.PathError{Op: "open", Path: device, Err: err})
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, fmt.Errorf("make tap %s: %w", name, errors.Join(err, unix.Close(fd)))
	}
	return os.NewFile(uintptr(fd), device), nil
}
