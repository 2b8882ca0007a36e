package conformance

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// size is what a shim uses of the host.
type size struct{ memory, files, goroutines int }

func (s *shim) size() size {
	s.h.t.Helper()
	return size{memory: s.memory("VmRSS"), files: s.fds(), goroutines: s.goroutines()}
}

// goroutines has the shim print its stacks, and counts them.
func (s *shim) goroutines() int {
	s.h.t.Helper()
	const begin, end = "=== BEGIN goroutine stack dump ===", "=== END goroutine stack dump ==="
	dumps := strings.Count(s.log(), end)
	unix.Kill(s.pid, unix.SIGUSR1)
	s.h.eventually("the shim's stacks", func() bool { return strings.Count(s.log(), end) > dumps })
	text := s.log()
	return strings.Count(text[strings.LastIndex(text, begin):], "\\ngoroutine ")
}

// cycle creates a container with an exec in a pod.
func (s *shim) cycle(id string) {
	s.h.t.Helper()
	s.attach(id)
	s.create(id, streams{}, s.h.layer("top"), s.h.layer("base"))
	s.run(id, "")
	stdout := s.h.fifo(id)
	out := s.h.read(stdout)
	s.exec(id, "e", streams{stdout: stdout}, "echo", id)
	s.run(id, "e")
	s.wait(id, "e")
	if got := out.all(s.h.t); got != id+"\n" {
		s.h.t.Errorf("output %q", got)
	}
	s.remove(id, "e")
}

// TestSoak runs as many pods as KATA_CC_SOAK_CYCLES says, of one to five
// containers with an exec each, and as many containers one after another in one
// pod. The last ones are to find the host, and their shims to be, as the first.
func TestSoak(t *testing.T) {
	cycles, err := strconv.Atoi(os.Getenv("KATA_CC_SOAK_CYCLES"))
	if err != nil || cycles < 20 {
		t.Skip("needs KATA_CC_SOAK_CYCLES, 20 at least, such as 1000 (make soak-memory)")
	}
	t.Run("pods", func(t *testing.T) {
		var mu sync.Mutex
		sizes := map[int][]size{} // by the number of containers
		t.Run("cycle", func(t *testing.T) {
			for n := range cycles {
				t.Run("", func(t *testing.T) {
					t.Parallel()
					h := newHost(t, memory.Script{})
					s := h.runningPod()
					containers := 1 + n%5
					for c := range containers {
						s.cycle(h.id(fmt.Sprint("c", c)))
					}
					at := s.size()
					for c := range containers {
						s.finish(h.id(fmt.Sprint("c", c)))
					}
					s.finish(s.id)
					mu.Lock()
					defer mu.Unlock()
					sizes[containers] = append(sizes[containers], at)
				})
			}
		})
		for containers := 1; containers <= 5; containers++ {
			wantFlat(t, fmt.Sprintf("pods of %d containers", containers), sizes[containers])
		}
	})
	t.Run("one pod", func(t *testing.T) {
		h := newHost(t, memory.Script{})
		s := h.runningPod()
		var sizes []size
		for n := range cycles {
			id := h.id(fmt.Sprint("c", n))
			s.cycle(id)
			s.finish(id)
			if n >= cycles/10 && n%max(cycles/100, 1) == 0 { // what is kept is there by then
				sizes = append(sizes, s.size())
			}
		}
		wantFlat(t, "a pod whose containers come and go", sizes)
		s.finish(s.id)
	})
}

// wantFlat compares the first tenth with the last, by their medians.
func wantFlat(t *testing.T, what string, sizes []size) {
	t.Helper()
	tenth := max(len(sizes)/10, 1)
	first, last := median(sizes[:tenth]), median(sizes[len(sizes)-tenth:])
	fmt.Printf("note: %s: %d, first and last tenth: memory %.1f and %.1f MiB, files %d and %d, goroutines %d and %d\n",
		what, len(sizes), float64(first.memory)/(1<<20), float64(last.memory)/(1<<20), first.files, last.files, first.goroutines, last.goroutines)
	if last.memory > first.memory+2<<20 || last.files > first.files || last.goroutines > first.goroutines {
		t.Errorf("%s: they grow", what)
	}
}

func median(sizes []size) size {
	of := func(value func(size) int) int {
		var all []int
		for _, s := range sizes {
			all = append(all, value(s))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	return size{
		memory: of(func(s size) int { return s.memory }), files: of(func(s size) int { return s.files }),
		goroutines: of(func(s size) int { return s.goroutines }),
	}
}
