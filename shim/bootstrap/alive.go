package bootstrap

import (
	"errors"
	"io/fs"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// aliveTimeout bounds the connection to a shim that is asked whether it lives.
const aliveTimeout = 2 * time.Second

// alive reports whether a shim listens at an address. Only the kernel's word that
// nobody does makes it a dead one: on a busy host a living shim may be slow, and to
// take it for dead would end its pod.
func alive(address string) bool {
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(address, "unix://"), aliveTimeout)
	if err == nil {
		return conn.Close() == nil
	}
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
}
