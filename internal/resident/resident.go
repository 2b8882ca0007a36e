// Package resident keeps small what a long-lived process holds in memory.
package resident

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long after the last call of Releaser.Soon memory is given back.
const settle = time.Second

// Releaser gives memory back when a burst of work is over. The zero value is
// ready for use.
type Releaser struct {
	mu    sync.Mutex
	timer *time.Timer
}

// Soon calls Release a second after the last call of Soon and hands its error to
// report.
func (r *Releaser) Soon(report func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer = time.AfterFunc(settle, func() {
		if err := Release(); err != nil {
			report(err)
		}
	})
}

// Release gives the kernel back what the heap does not need, and the pages of the
// program's own file. Of those a start leaves almost all resident, while what
// serves an idle process is a small part, which comes back from the page cache as
// it is used.
func Release() error {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("release memory: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("release memory: %w", err)
	}
	defer f.Close()
	all, err := clean(f, program)
	if err != nil {
		return fmt.Errorf("release memory: %w", err)
	}
	var errs []error
	for _, m := range all {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("release memory: madvise %x-%x: %w", m.start, m.end, errno))
		}
	}
	return errors.Join(errs...)
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// clean lists the mappings of a file in /proc/<pid>/smaps (proc(5)) that can be
// dropped because nothing in them differs from the file: not writable, and
// without a page of their own, as a relocated one is.
func clean(smaps io.Reader, file string) ([]mapping, error) {
	var all []mapping
	var now mapping
	mine := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return nil, fmt.Errorf("smaps: line %q", line)
		}
		if !strings.HasSuffix(fields[0], ":") { // start-end permissions offset device inode path
			var err error
			if now, err = parseRange(fields[0]); err != nil {
				return nil, err
			}
			mine = len(fields) >= 6 && strings.HasSuffix(line, " "+file) && len(fields[1]) == 4 && fields[1][0] == 'r' && fields[1][1] == '-'
			continue
		}
		if fields[0] == "Anonymous:" && mine && fields[1] == "0" {
			all = append(all, now)
		}
	}
	return all, lines.Err()
}

func parseRange(text string) (mapping, error) {
	from, to, _ := strings.Cut(text, "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err := errors.Join(err1, err2); err != nil || end < start {
		return mapping{}, fmt.Errorf("smaps: range %q: %w", text, err)
	}
	return mapping{uintptr(start), uintptr(end)}, nil
}
