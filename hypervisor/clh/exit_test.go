package clh_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

const soon = memory.Duration(20 * time.Millisecond)

// TestEndsAreToldApart: whatever ends a machine is reported as what it is.
func TestEndsAreToldApart(t *testing.T) {
	const kernelPanic = "Kernel panic - not syncing: Attempted to kill init!"
	for name, c := range map[string]struct {
		steps []memory.Step
		kind  hypervisor.ExitKind
		want  string
	}{
		"the guest powers off": {[]memory.Step{{After: soon, Do: "poweroff"}}, hypervisor.ExitGuestOff, "guest powered off"},
		"the guest reboots":    {[]memory.Step{{After: soon, Do: "reboot"}}, hypervisor.ExitGuestReboot, "guest rebooted"},
		"the guest panics":     {[]memory.Step{{After: soon, Do: "panic"}}, hypervisor.ExitGuestPanic, "guest panicked"},
		"a panic that only the console tells": {[]memory.Step{{Do: "print", Text: "[ 1.0] " + kernelPanic + "\n[ 1.0] CPU: 0\n"}, {After: 3 * soon, Do: "reboot"}},
			hypervisor.ExitGuestPanic, "guest panicked: " + kernelPanic},
		"a part of the VMM fails":   {[]memory.Step{{After: soon, Do: "die", Text: "thread '_disk0_q0' panicked"}}, hypervisor.ExitVMM, "_disk0_q0"},
		"the VMM exits with 0":      {[]memory.Step{{After: soon, Do: "exit"}}, hypervisor.ExitVMM, "VMM ended by itself: exit status 0"},
		"the VMM fails":             {[]memory.Step{{After: soon, Do: "exit", Status: 1, Text: "no capability"}}, hypervisor.ExitVMM, "exit status 1; it says: no capability"},
		"the VMM's filter":          {[]memory.Step{{After: soon, Do: "kill", Signal: int(unix.SIGSYS), Text: "seccomp violation, syscall 41"}}, hypervisor.ExitFilter, "system call filter"},
		"the host is out of memory": {[]memory.Step{{After: soon, Do: "kill"}}, hypervisor.ExitKilled, "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.Script{Guest: c.steps})
			vm := h.boot()
			e, err := vm.Wait(t.Context())
			if err != nil || e.Kind != c.kind || !strings.Contains(e.Reason, c.want) {
				t.Errorf("Wait: %+v, %v, want %q and %q", e, err, c.kind, c.want)
			}
			wantGone(t, h, vm)
			if again, _ := vm.Wait(t.Context()); again != e {
				t.Errorf("after Stop the machine ended by %+v, before by %+v", again, e)
			}
		})
	}
}

func TestStoppedMachineIsSaidToBe(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, err := vm.Wait(t.Context()); err != nil || e.Kind != hypervisor.ExitStopped {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestFailedBootShowsTheWholeConsole(t *testing.T) {
	const first = "the first byte of the console\n"
	t.Run("short", func(t *testing.T) {
		h := newHost(t, memory.Script{Console: first + strings.Repeat("a line of the guest's\n", 2000), BootError: "no bootable payload"})
		if err := h.launch().Boot(t.Context()); err == nil || !strings.Contains(err.Error(), first) {
			t.Errorf("the console's first line is not in %.100v", err)
		}
	})
	t.Run("long", func(t *testing.T) {
		h := newHost(t, memory.Script{Console: strings.Repeat("a line of the guest's\n", 10000) + "the end\n", BootError: "no bootable payload"})
		err := h.launch().Boot(t.Context())
		if n := len(fmt.Sprint(err)); n < 64000 || n > 66000 || !strings.HasSuffix(fmt.Sprint(err), "the end") {
			t.Errorf("an error of %d bytes, want the console's last 64 KiB", n)
		}
	})
}

// TestAPIThatHangs: the call that waits says so when its time is over, and the
// machine can be stopped all the same.
func TestAPIThatHangs(t *testing.T) {
	h := newHost(t, memory.Script{Console: "Linux version 6.1\n", Faults: []memory.Fault{{Endpoint: "vm.boot", Do: "hang"}}})
	h.o.BootTimeout, h.o.StopTimeout = 100*time.Millisecond, 100*time.Millisecond
	vm := h.launch()
	err := vm.Boot(t.Context())
	if err == nil || !strings.Contains(err.Error(), "vm.boot: no answer within 100ms") {
		t.Errorf("%v", err)
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestVMMHasNoPrivilegesToSpare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before := readStatus(t, os.Getpid())
	for name, want := range map[string]uint64{
		"plain":     1 << unix.CAP_DAC_READ_SEARCH,
		"protected": 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_IPC_LOCK,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.Script{Features: []string{"igvm", "sev_snp"}})
			if name == "protected" {
				h.confidential()
			}
			vm := h.boot()
			status := readStatus(t, vm.Process().PID)
			if status["NoNewPrivs"] != "1" {
				t.Errorf("NoNewPrivs is %q", status["NoNewPrivs"])
			}
			for _, set := range []string{"CapBnd", "CapPrm", "CapEff"} {
				if got, err := strconv.ParseUint(status[set], 16, 64); err != nil || got&^want != 0 {
					t.Errorf("%s is %s, want no more than %x", set, status[set], want)
				}
			}
			if ours := readStatus(t, os.Getpid()); ours["CapBnd"] != before["CapBnd"] || ours["NoNewPrivs"] != before["NoNewPrivs"] {
				t.Errorf("this process has given up what the VMM has: %v before, %v now", before, ours)
			}
			var files unix.Rlimit
			if err := unix.Prlimit(vm.Process().PID, unix.RLIMIT_NOFILE, nil, &files); err != nil || files.Cur < min(files.Max, 1<<16) {
				t.Errorf("it may open %d files of %d, %v", files.Cur, files.Max, err)
			}
			if group, err := syscall.Getpgid(vm.Process().PID); err != nil || group != vm.Process().PID {
				t.Errorf("it is in process group %d, %v", group, err)
			}
			if st, err := os.Stat(h.o.Dir); err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("the directory of machines: %v, %v", st.Mode(), err)
			}
		})
	}
}

func readStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}
