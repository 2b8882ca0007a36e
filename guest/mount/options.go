// Package mount parses mount options and makes mounts of the guest.
package mount

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// KataPrefix begins the options that speak to the agent, not to the kernel.
const KataPrefix = "io.katacontainers."

// Options are mount options as mount(2) takes them.
type Options struct {
	Flags uintptr
	Data  []string // what is left for the file system
}

// flag is what an option does to the flags.
type flag struct {
	clear bool
	bits  uintptr
}

var flags = map[string]flag{
	"async": {true, unix.MS_SYNCHRONOUS}, "atime": {true, unix.MS_NOATIME}, "bind": {false, unix.MS_BIND},
	"defaults": {}, "dev": {true, unix.MS_NODEV}, "diratime": {true, unix.MS_NODIRATIME},
	"dirsync": {false, unix.MS_DIRSYNC}, "exec": {true, unix.MS_NOEXEC}, "iversion": {false, unix.MS_I_VERSION},
	"lazytime": {false, unix.MS_LAZYTIME}, "mand": {false, unix.MS_MANDLOCK}, "noatime": {false, unix.MS_NOATIME},
	"nodev": {false, unix.MS_NODEV}, "nodiratime": {false, unix.MS_NODIRATIME}, "noexec": {false, unix.MS_NOEXEC},
	"noiversion": {true, unix.MS_I_VERSION}, "nolazytime": {true, unix.MS_LAZYTIME}, "nomand": {true, unix.MS_MANDLOCK},
	"norelatime": {true, unix.MS_RELATIME}, "nostrictatime": {true, unix.MS_STRICTATIME}, "nosuid": {false, unix.MS_NOSUID},
	"rbind": {false, unix.MS_BIND | unix.MS_REC}, "relatime": {false, unix.MS_RELATIME}, "ro": {false, unix.MS_RDONLY},
	"rw": {true, unix.MS_RDONLY}, "strictatime": {false, unix.MS_STRICTATIME}, "suid": {true, unix.MS_NOSUID},
	"sync": {false, unix.MS_SYNCHRONOUS},
}

// ParseOptions splits options into flags and data. Those that speak to the agent
// are left out; a later option wins over an earlier one.
func ParseOptions(options []string) (Options, error) {
	var o Options
	for _, opt := range options {
		if opt == "" || strings.HasPrefix(opt, KataPrefix) {
			continue
		}
		if opt == "loop" {
			return Options{}, fmt.Errorf("mount option %q: the guest has no loop devices: %w", opt, errdefs.ErrInvalidArgument)
		}
		if strings.ContainsAny(opt, "\x00") {
			return Options{}, fmt.Errorf("mount option %q holds a zero byte: %w", opt, errdefs.ErrInvalidArgument)
		}
		f, ok := flags[opt]
		switch {
		case !ok:
			o.Data = append(o.Data, opt)
		case f.clear:
			o.Flags &^= f.bits
		default:
			o.Flags |= f.bits
		}
	}
	return o, nil
}

// Option finds the value of the last option "name=value".
func Option(options []string, name string) (value string, ok bool) {
	for _, o := range options {
		if v, found := strings.CutPrefix(o, name+"="); found {
			value, ok = v, true
		}
	}
	return value, ok
}
