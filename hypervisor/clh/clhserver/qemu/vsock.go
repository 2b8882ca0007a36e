package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// vsockProgram is the vhost-user device of the rust-vmm project. Behind
// --uds-path it speaks Cloud Hypervisor's hybrid vsock: "CONNECT <port>" on one
// socket from the host, "<socket>_<port>" for what the guest dials.
const vsockProgram = "vhost-device-vsock"

// maxSocketPath is how long the path of a Unix socket may be.
const maxSocketPath = 107

// vsockDevice is the device's process with the front before it.
type vsockDevice struct {
	id      string
	process *process
	control *os.File // the vhost-user control socket, for QEMU
	front   *front
}

// startVsock starts the device's process and connects its control socket, which
// is gone from the file system by then. What it leaves is entered in back.
func startVsock(ctx context.Context, s *spawner, program string, v clhserver.Vsock, back *undo.Stack) (_ *vsockDevice, err error) {
	control, device := v.Socket+".vhost", v.Socket+".device"
	if len(device) > maxSocketPath {
		return nil, fmt.Errorf("socket %s: the path has %d bytes, at most %d are possible",
			v.Socket, len(v.Socket), maxSocketPath-len(".device"))
	}
	for _, path := range []string{v.Socket, control, device} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				err = fs.ErrExist
			}
			return nil, fmt.Errorf("socket %s: %w", path, err)
		}
		back.Add(func(context.Context) error { return removeFile(path) })
	}
	d := &vsockDevice{id: v.ID}
	d.process, err = s.start(program, []string{
		"--guest-cid", strconv.FormatUint(uint64(v.CID), 10),
		"--socket", control,
		"--uds-path", v.Socket,
	}, nil)
	if err != nil {
		return nil, err
	}
	back.Add(func(context.Context) error { d.process.kill(); return nil })

	ctx, cancel := context.WithTimeout(ctx, vsockTimeout)
	defer cancel()
	conn, err := dialControl(ctx, d.process, control)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// It listens for clients before it listens for QEMU.
	if d.front, err = newFront(v.Socket, device); err != nil {
		return nil, err
	}
	back.Add(func(context.Context) error { d.front.close(); return nil })
	if err := removeFile(control); err != nil {
		return nil, err
	}
	if d.control, err = conn.File(); err != nil {
		return nil, fmt.Errorf("control socket of %s: %w", d.process.name, err)
	}
	return d, nil
}

// dialControl connects to the process p as soon as it listens.
func dialControl(ctx context.Context, p *process, path string) (*net.UnixConn, error) {
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-p.done:
			return nil, p.failure()
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s to listen on %s: %w", p.name, path, errors.Join(context.Cause(ctx), err))
		}
	}
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
