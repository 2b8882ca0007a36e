package clh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// birthplace is the cgroup in which a process is to be started, so that nothing
// of it is ever outside. In version 1 of cgroups a thread has cgroups of its own,
// and what it starts has the same: the thread that starts the process joins them.
// In version 2 the kernel is told, from 5.7 on.
type birthplace struct {
	tasks []string // files of version 1 to be joined by the thread
	dir   *os.File // of version 2
}

// openBirthplace looks at the directories of a cgroup, one for each hierarchy.
// The zero birthplace, for none, is the caller's.
func openBirthplace(dirs []string) (b birthplace, err error) {
	for _, dir := range dirs {
		_, err = os.Stat(filepath.Join(dir, "cgroup.controllers"))
		if errors.Is(err, fs.ErrNotExist) {
			b.tasks = append(b.tasks, filepath.Join(dir, "tasks"))
			continue
		}
		b.close() // of two there is no use; a host has one
		if err != nil {
			return birthplace{}, err
		}
		if b.dir, err = os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return birthplace{}, err
		}
	}
	return b, nil
}

func (b *birthplace) close() {
	if b.dir != nil {
		b.dir.Close()
	}
}

// enter is to be called on a thread that ends with what it starts.
func (b *birthplace) enter() error {
	for _, file := range b.tasks {
		if err := os.WriteFile(file, []byte(strconv.Itoa(unix.Gettid())), 0); err != nil {
			return fmt.Errorf("join cgroup %s: %w", filepath.Dir(file), err)
		}
	}
	return nil
}

// tell has the kernel start the process there.
func (b *birthplace) tell(attr *syscall.SysProcAttr) {
	if b.dir != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(b.dir.Fd())
	}
}

// unknown tells whether err is that of a kernel, or of a filter before it, that
// starts no process in a cgroup. Whoever launches the machine moves it there then.
func (b *birthplace) unknown(err error) bool {
	return b.dir != nil && (errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.E2BIG))
}
