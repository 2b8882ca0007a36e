package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxData is how many bytes of data mount(2) takes: a page with its final zero.
const maxData = 4095

// Mount is one mount to be made.
type Mount struct {
	Source, Target, FSType string
	Options                Options

	// Dir is what relative paths in the data are relative to; empty for none.
	Dir string
}

// Do makes the mount and its mount point.
func (m Mount) Do() error {
	switch {
	case m.Source == "":
		return fmt.Errorf("need mount source: %w", errdefs.ErrInvalidArgument)
	case m.Target == "":
		return fmt.Errorf("need mount destination: %w", errdefs.ErrInvalidArgument)
	case m.FSType == "" && m.Options.Flags&unix.MS_BIND == 0:
		return fmt.Errorf("need mount FS type: %w", errdefs.ErrInvalidArgument)
	}
	data := strings.Join(m.Options.Data, ",")
	if len(data) > maxData {
		return fmt.Errorf("mount %s: Mount option exceeds 4K size: %w", m.Target, errdefs.ErrInvalidArgument)
	}
	if err := m.makeTarget(); err != nil {
		return fmt.Errorf("failed to mount %s to %s, make the mount point: %w", m.Source, m.Target, err)
	}
	call := func() error { return unix.Mount(m.Source, m.Target, m.FSType, m.Options.Flags, data) }
	if m.Dir != "" {
		inner := call
		call = func() error { return inDir(m.Dir, inner) }
	}
	if err := call(); err != nil {
		return fmt.Errorf("failed to mount %s to %s, with error: %w", m.Source, m.Target, err)
	}
	// A bind mount takes no other flags when it is made.
	if extra := m.Options.Flags &^ (unix.MS_BIND | unix.MS_REC); m.Options.Flags&unix.MS_BIND != 0 && extra != 0 {
		if err := unix.Mount("", m.Target, "", unix.MS_BIND|unix.MS_REMOUNT|extra, ""); err != nil {
			return errors.Join(fmt.Errorf("failed to mount %s to %s, set its flags: %w", m.Source, m.Target, err), Unmount(m.Target))
		}
	}
	return nil
}

// makeTarget makes the mount point: a file to bind something to that is not a
// directory, else a directory.
func (m Mount) makeTarget() error {
	if m.Options.Flags&unix.MS_BIND != 0 {
		info, err := os.Stat(m.Source)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return makeFile(m.Target)
		}
	}
	return os.MkdirAll(m.Target, 0o755)
}

func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// Bind binds source, with what is mounted below it, to target.
func Bind(source, target string) error {
	return Mount{Source: source, Target: target, Options: Options{Flags: unix.MS_BIND | unix.MS_REC}}.Do()
}

// Unmount detaches the topmost mount at target. Nothing mounted there, and no
// such path, are success.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}

// inDir runs call on a thread of its own whose working directory is dir. The
// other threads, and so the other requests, keep theirs.
func inDir(dir string, call func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			result <- fmt.Errorf("give a thread its own working directory: %w", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			result <- fmt.Errorf("enter %s: %w", dir, err)
			return
		}
		result <- call()
	}()
	return <-result
}

// Below lists the mount points below dir, in the order they were made.
func Below(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return below(string(data), dir), nil
}

func below(mountinfo, dir string) []string {
	var found []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if target := unescape(fields[4]); strings.HasPrefix(target, dir+"/") {
			found = append(found, target)
		}
	}
	return found
}

// unescape reads the octal escapes of mountinfo for space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
