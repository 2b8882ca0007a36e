package clh_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func TestLifeInEveryVersion(t *testing.T) {
	for _, version := range []string{"40.0.0", "46", "51.1.0", "53.0.0", "54"} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, memory.Script{Version: version, Vsock: map[uint32]string{1024: "{dir}/../../agent.sock"}})
			h.agent("agent.sock", func(c net.Conn) { io.Copy(c, c) })
			h.spec.Image = h.file("image")
			vm := h.boot()
			at, err := vm.HotplugDisk(t.Context(), h.disk("base"))
			if err != nil {
				t.Fatal(err)
			}
			want := hypervisor.BDF{Segment: 1, Device: 1}
			if version == "54" { // from there on only segment 0 has a host bridge
				want.Device = 0
			}
			if at != want {
				t.Errorf("base is at %s, want %s", at, want)
			}
			if _, err := vm.HotplugDisk(t.Context(), h.disk("top")); err != nil {
				t.Fatal(err)
			}
			h.wantDisks("_disk0", "base", "top")
			wantEcho(t, vm)
			if err := vm.UnplugDisk(t.Context(), "base"); err != nil {
				t.Error(err)
			}
			h.wantDisks("_disk0", "top")
			if err := vm.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if e, err := vm.Wait(t.Context()); err != nil || e.Reason != "exit status 0" {
				t.Errorf("Wait: %+v, %v", e, err)
			}
		})
	}
}

func wantEcho(t *testing.T, vm hypervisor.VM) {
	t.Helper()
	c, err := vm.Dial(t.Context(), 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("the guest answers %q, %v", got, err)
	}
}

func TestDialBeforeTheGuestListensIsRefused(t *testing.T) {
	vm := newHost(t, memory.Script{}).boot()
	if _, err := vm.Dial(t.Context(), 1024); !errdefs.IsUnavailable(err) || errors.Is(err, hypervisor.ErrGone) {
		t.Errorf("Dial: %v, want unavailable", err)
	}
}

func TestDialEndsWhenTheGuestIsNotUp(t *testing.T) {
	vm := newHost(t, memory.Script{Up: memory.Never}).boot()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := vm.Dial(ctx, 1024); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v, want deadline exceeded", err)
	}
}

func TestTapsReachTheVMM(t *testing.T) {
	h := newHost(t, memory.Script{})
	var mine []*os.File
	for _, id := range []string{"eth0", "eth1"} {
		f, err := os.Create(filepath.Join(h.dir, id+".tap"))
		if err != nil {
			t.Fatal(err)
		}
		mine = append(mine, f)
		h.spec.NICs = append(h.spec.NICs, hypervisor.NIC{ID: id, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Tap: f})
	}
	vm := h.launch()
	for _, f := range mine {
		f.Close() // ours to close once Launch has returned
	}
	if err := vm.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range mine {
		if n := openIn(vm.Process().PID, f.Name()); n == 0 {
			t.Errorf("the VMM does not have %s open", f.Name())
		}
	}
}

// openIn counts the descriptors of a process on a file.
func openIn(pid int, path string) (n int) {
	fds, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); target == path {
			n++
		}
	}
	return n
}

func TestDiskStaysOpenUntilTheGuestLetsGo(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	d := h.disk("layer")
	if _, err := vm.HotplugDisk(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if openIn(vm.Process().PID, d.Path) == 0 {
		t.Error("the VMM has not opened the disk")
	}
	if err := vm.UnplugDisk(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if openIn(vm.Process().PID, d.Path) != 0 {
		t.Error("the VMM has the disk open after UnplugDisk")
	}
}

func TestKilledVMMIsGone(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	if err := syscall.Kill(vm.Process().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e, err := vm.Wait(t.Context()); err != nil || e.Reason != "signal: killed" || time.Since(e.At) > time.Minute {
		t.Errorf("Wait: %+v, %v", e, err)
	}
	wantGone(t, h, vm)
}

func wantGone(t *testing.T, h *host, vm hypervisor.VM) {
	t.Helper()
	ctx := t.Context()
	_, plug := vm.HotplugDisk(ctx, h.disk("late"))
	_, dial := vm.Dial(ctx, 1024)
	for what, err := range map[string]error{"HotplugDisk": plug, "UnplugDisk": vm.UnplugDisk(ctx, "late"), "Dial": dial} {
		if !errors.Is(err, hypervisor.ErrGone) {
			t.Errorf("%s of a dead machine: %v, want ErrGone", what, err)
		}
	}
	if err := vm.Stop(ctx); err != nil {
		t.Errorf("Stop of a dead machine: %v", err)
	}
}

func TestStopManyTimesAtOnce(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if err := vm.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestStopOnADeadContextStillStops(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := vm.Stop(ctx); err != nil {
		t.Error(err)
	}
	h.wantNothingLeft()
}

func TestStopEscalates(t *testing.T) {
	for do, want := range map[string]string{"hang": "exit status 0", "stuck": "signal: killed", "fail": "exit status 0"} {
		t.Run(do, func(t *testing.T) {
			h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vmm.shutdown", Do: do}}})
			h.o.StopTimeout = 2 * time.Second
			if do == "stuck" {
				h.o.StopTimeout = 100 * time.Millisecond
			}
			vm := h.boot()
			if err := vm.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if e, _ := vm.Wait(t.Context()); e.Reason != want {
				t.Errorf("the VMM ended by %q, want %q", e.Reason, want)
			}
		})
	}
}

func TestLaunchInNetNS(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := newHost(t, memory.Script{})
	// A process holds the namespace that the machine is to be started in.
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := holder.Start(); err != nil {
		t.Skipf("needs the right to make a network namespace: %v", err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	h.spec.NetNS = "/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns/net"
	vm := h.launch()
	want, _ := os.Readlink(h.spec.NetNS)
	got, _ := os.Readlink("/proc/" + strconv.Itoa(vm.Process().PID) + "/ns/net")
	ours, _ := os.Readlink("/proc/self/ns/net")
	if got != want || got == ours {
		t.Errorf("the VMM is in %s, want %s; this process is in %s", got, want, ours)
	}
	vm.Stop(t.Context())
}

func TestLaunchInTheDirectoryOfAnother(t *testing.T) {
	h := newHost(t, memory.Script{})
	h.launch()
	if _, err := clh.New(h.o).Launch(t.Context(), h.spec); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Launch: %v, want already exists", err)
	}
	if _, err := os.Stat(filepath.Join(h.o.Dir, h.spec.ID, "clh-api.sock")); err != nil {
		t.Errorf("the first machine's socket: %v", err)
	}
}

func TestVMDirectoryIsPrivate(t *testing.T) {
	h := newHost(t, memory.Script{})
	h.launch()
	st, err := os.Stat(filepath.Join(h.o.Dir, h.spec.ID))
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v; want 0700", st.Mode(), err)
	}
}

func TestSpecThatCannotBe(t *testing.T) {
	h := newHost(t, memory.Script{})
	for name, change := range map[string]func(*hypervisor.Spec){
		"id with slash": func(s *hypervisor.Spec) { s.ID = "a/b" },
		"id dots":       func(s *hypervisor.Spec) { s.ID = ".." },
		"no kernel":     func(s *hypervisor.Spec) { s.Kernel = "" },
		"no root":       func(s *hypervisor.Spec) { s.Initrd = "" },
		"no memory":     func(s *hypervisor.Spec) { s.MemoryMiB = 0 },
		"long id":       func(s *hypervisor.Spec) { s.ID = strings.Repeat("x", 100) },
		"NIC id":        func(s *hypervisor.Spec) { s.NICs = []hypervisor.NIC{{ID: "__x"}} },
	} {
		spec := h.spec
		change(&spec)
		if _, err := clh.New(h.o).Launch(t.Context(), spec); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want invalid argument", name, err)
		}
	}
}

func TestConsoleKeepsTheEnd(t *testing.T) {
	long := strings.Repeat("line of the guest\n", 10000) + "the last line\n"
	h := newHost(t, memory.Script{Console: long})
	vm := h.boot()
	vm.Stop(t.Context())
	got := vm.Console()
	if len(got) > 64<<10 || !strings.HasSuffix(got, "the last line\n") || !strings.HasPrefix(got, "line of the guest\n") {
		t.Errorf("%d bytes, beginning %q, ending %q", len(got), got[:20], got[len(got)-20:])
	}
}

func TestReap(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	dir := filepath.Join(h.o.Dir, h.spec.ID)
	other := vm.Process()
	other.StartTime++ // a later process of the same pid
	if err := clh.Reap(t.Context(), filepath.Join(h.o.Dir, "none"), other); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(vm.Process().PID, 0); err != nil {
		t.Fatal("killed a process that is not the VMM")
	}
	for range 2 { // idempotent
		if err := clh.Reap(t.Context(), dir, vm.Process()); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory: %v", err)
	}
	if e, err := vm.Wait(t.Context()); err != nil || e.Reason != "signal: killed" {
		t.Errorf("Wait: %+v, %v", e, err)
	}
	if err := clh.Reap(t.Context(), "/tmp", hypervisor.Process{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Reap of /tmp: %v", err)
	}
}

// The caller may die between the launch and its note of the process.
func TestReapOfAnUnnotedProcess(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.launch()
	if err := clh.Reap(t.Context(), filepath.Join(h.o.Dir, h.spec.ID), hypervisor.Process{}); err != nil {
		t.Error(err)
	}
	if e, err := vm.Wait(t.Context()); err != nil || e.Reason != "signal: killed" {
		t.Errorf("Wait: %+v, %v", e, err)
	}
}

// A process that reaps all its children, as containerd's shim library does
// unless told otherwise, takes the exit status but not the news.
func TestAnotherReaperTakesTheExitStatus(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	if err := syscall.Kill(vm.Process().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	syscall.Wait4(vm.Process().PID, nil, 0, nil) // one of the two wins
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if e, err := vm.Wait(ctx); err != nil || e.Reason == "" {
		t.Errorf("Wait: %+v, %v", e, err)
	}
}
