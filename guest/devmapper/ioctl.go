// Package devmapper makes read-only dm-verity devices through the kernel's
// device mapper, without a helper program.
//
// The structures are those of include/uapi/linux/dm-ioctl.h, version 4.
package devmapper

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ControlPath is the device by which the device mapper takes orders.
const ControlPath = "/dev/mapper/control"

const (
	headerSize  = 312 // sizeof(struct dm_ioctl)
	targetSize  = 40  // sizeof(struct dm_target_spec)
	nameSize    = 128 // with the final zero
	typeSize    = 16
	bufferSize  = 16 << 10
	versionMain = 4
)

// Offsets in struct dm_ioctl.
const (
	offDataSize    = 12
	offDataStart   = 16
	offTargetCount = 20
	offFlags       = 28
	offDev         = 40
	offName        = 48
)

type command uint8

const (
	cmdDevCreate   command = 3
	cmdDevRemove   command = 4
	cmdDevSuspend  command = 6 // resumes unless flagSuspend is set
	cmdTableLoad   command = 9
	cmdTableStatus command = 12
)

var commandNames = map[command]string{
	cmdDevCreate: "create", cmdDevRemove: "remove", cmdDevSuspend: "resume", cmdTableLoad: "load table of", cmdTableStatus: "read table of",
}

const (
	flagReadOnly    = 1 << 0
	flagStatusTable = 1 << 4
	flagDeferred    = 1 << 17 // remove when the last user has closed it
)

// Target is one target of a table; lengths are in sectors of 512 bytes.
type Target struct {
	Start, Length uint64
	Type, Params  string
}

// request is an order about the device called name.
func request(name string, flags uint32, t *Target) ([]byte, error) {
	if name == "" || len(name) >= nameSize || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("dm device: bad name %q: %w", name, errdefs.ErrInvalidArgument)
	}
	buf := make([]byte, bufferSize)
	le := binary.NativeEndian
	le.PutUint32(buf, versionMain)
	le.PutUint32(buf[offDataSize:], bufferSize)
	le.PutUint32(buf[offDataStart:], headerSize)
	le.PutUint32(buf[offFlags:], flags)
	copy(buf[offName:], name)
	if t != nil {
		if headerSize+targetSize+len(t.Params)+1 > bufferSize || len(t.Type) >= typeSize {
			return nil, fmt.Errorf("dm device %s: table of %d bytes is too long: %w", name, len(t.Params), errdefs.ErrInvalidArgument)
		}
		le.PutUint32(buf[offTargetCount:], 1)
		spec := buf[headerSize:]
		le.PutUint64(spec, t.Start)
		le.PutUint64(spec[8:], t.Length)
		copy(spec[24:24+typeSize], t.Type)
		copy(spec[targetSize:], t.Params)
	}
	return buf, nil
}

// do gives an order and returns the device mapper's answer.
func do(cmd command, name string, flags uint32, t *Target) ([]byte, error) {
	buf, err := request(name, flags, t)
	if err != nil {
		return nil, err
	}
	control, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("dm device %s: the kernel has no device mapper: %w", name, err)
	}
	defer control.Close()
	// _IOWR(0xfd, cmd, struct dm_ioctl)
	number := uintptr(3<<30 | headerSize<<16 | 0xfd<<8 | int(cmd))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), number, uintptr(unsafe.Pointer(&buf[0])))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return nil, fmt.Errorf("%s dm device %s: %w", commandNames[cmd], name, errno)
	}
	return buf, nil
}

// answeredDev is the device number in an answer.
func answeredDev(buf []byte) uint64 { return binary.NativeEndian.Uint64(buf[offDev:]) }

// answeredTable is the first target in an answer about a table.
func answeredTable(buf []byte) Target {
	start := binary.NativeEndian.Uint32(buf[offDataStart:])
	if int(start)+targetSize > len(buf) {
		return Target{}
	}
	spec := buf[start:]
	return Target{
		Start: binary.NativeEndian.Uint64(spec), Length: binary.NativeEndian.Uint64(spec[8:]),
		Type: cString(spec[24 : 24+typeSize]), Params: cString(spec[targetSize:]),
	}
}

func cString(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
