package bootstrap

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A shim that is too busy to take connections lives.
func TestWhoIsAlive(t *testing.T) {
	dir, err := os.MkdirTemp("", "alive")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	if alive("unix://" + path) {
		t.Error("nobody listens, but somebody is alive")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	for { // until the queue of connections is full
		c, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		t.Cleanup(func() { c.Close() })
	}
	if !alive("unix://" + path) {
		t.Error("a busy shim is taken for dead")
	}
	unix.Close(fd)
	if alive("unix://" + path) {
		t.Error("the listener is gone, but somebody is alive")
	}
}
