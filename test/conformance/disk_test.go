package conformance

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// ownDisk gives the story's shims a small /run/vc of their own, in a mount
// namespace of their own.
func (h *host) ownDisk() {
	h.t.Helper()
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		"mkdir -p /run/vc && mount -t tmpfs -o size=256k,nr_inodes=64,mode=755 none /run/vc && echo ready && exec sleep infinity")
	ready, err := holder.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.after = append(h.after, func() {
		_ = holder.Process.Kill()
		_ = holder.Wait() // its status is that it was killed
	})
	if _, err := io.ReadFull(ready, make([]byte, len("ready\n"))); err != nil {
		h.t.Fatalf("mount a disk for /run/vc: %v", err)
	}
	h.run = fmt.Sprintf("/proc/%d/root/run/vc", holder.Process.Pid)
	// The mount namespace's root becomes the working directory.
	h.enter = []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", holder.Process.Pid), "sh", "-c", `cd "$0" && exec "$@"`}
}

// shortages are what a disk may lack. The ones that cannot be written at all come
// to themselves before the pod is to be deleted: nobody could clean them up.
var shortages = map[string]struct {
	begin, end func(h *host)
	code       codes.Code
}{
	"full": {begin: (*host).fill, code: codes.ResourceExhausted},
	"out of inodes": {begin: func(h *host) {
		for n := 0; ; n++ {
			f, err := os.Create(filepath.Join(h.run, fmt.Sprint("inode", n)))
			if err != nil {
				return
			}
			f.Close()
		}
	}, code: codes.ResourceExhausted},
	"read-only": {
		begin: func(h *host) { h.remount("ro") },
		end:   func(h *host) { h.remount("rw") },
		code:  codes.FailedPrecondition,
	},
}

func (h *host) fill() {
	h.t.Helper()
	f, err := os.Create(filepath.Join(h.run, "full"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		h.t.Errorf("fill the disk: %v", err)
	}
}

func (h *host) remount(how string) {
	h.t.Helper()
	if out, err := exec.Command(h.enter[0], h.enter[1], "mount", "-o", "remount,"+how, "/run/vc").CombinedOutput(); err != nil {
		h.t.Errorf("remount the disk %s: %v: %s", how, err, out)
	}
}

func TestMatrixOfDisks(t *testing.T) {
	t.Parallel()
	for name, s := range shortages {
		for at, phase := range append([]string{"nothing"}, phases()...) {
			cell(t, "disk", fmt.Sprintf("%s after %s", name, phase), func(t *testing.T) {
				h := newHost(t, memory.Script{})
				h.ownDisk()
				l := newLife(h)
				if at > 0 {
					l.walk(0, at)
				}
				s.begin(h)
				if at < len(phases()) {
					l.walk(at, 0)
				}
				if s.end != nil {
					s.end(h)
				}
				l.end()
				l.wantCodes(append([]codes.Code{s.code}, consequences...)...)
				if at == 0 && len(l.s.refusals()) == 0 {
					t.Error("nothing was refused")
				}
				if at > 0 && at < len(phases()) && s.end == nil { // a pod that runs needs no more room
					l.wantCodes()
				}
			})
		}
	}
}
