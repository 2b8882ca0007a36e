package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhtest"
)

// mainVariable makes the test binary clh-qemu, which the driver then starts.
const mainVariable = "CLH_QEMU_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
	}
	os.Setenv(mainVariable, "1")
	os.Exit(m.Run())
}

// machine is the guest image's machine, in clh-qemu.
func machine(t *testing.T) clhtest.Machine {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skipf("needs QEMU: %v", err)
	}
	guest := os.Getenv("KATA_CC_GUEST_DIR")
	if guest == "" {
		guest = filepath.Join("..", "..", ".cache", "guest")
	}
	guest, err := filepath.Abs(guest)
	if err != nil {
		t.Fatal(err)
	}
	spec := hypervisor.Spec{
		ID: "sandbox", VCPUs: 1, MemoryMiB: 512,
		Kernel: filepath.Join(guest, "vmlinuz"), Initrd: filepath.Join(guest, "initrd.img"),
	}
	for _, path := range []string{spec.Kernel, spec.Initrd} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs the guest's %s: %v (KATA_CC_GUEST_DIR says where)", filepath.Base(path), err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return clhtest.Machine{Options: clh.Options{Path: self}, Spec: spec, Port: 1024}
}

// TestDriverConformance runs what every backend must pass.
func TestDriverConformance(t *testing.T) { clhtest.Run(t, machine(t)) }

// launch has the driver start clh-qemu.
func launch(t *testing.T, dir string) hypervisor.VM {
	t.Helper()
	m := machine(t)
	m.Options.Dir = dir
	vm, err := clh.New(m.Options).Launch(t.Context(), m.Spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("console:\n%s", vm.Console())
		}
	})
	if err := vm.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	return vm
}

// agent dials the guest's agent until it listens.
func agent(t *testing.T, vm hypervisor.VM) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := vm.Dial(ctx, 1024)
		if err == nil {
			return conn
		}
		if ctx.Err() != nil {
			t.Fatalf("dial the agent: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestNothingOutlivesAKill(t *testing.T) {
	dir := t.TempDir()
	vm := launch(t, dir)
	agent(t, vm).Close()
	process := vm.Process()
	processes := clhtest.Children(t, process.PID)
	if len(processes) == 0 {
		t.Fatal("the VMM has started nothing")
	}
	if err := unix.Kill(process.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if !clhtest.Gone(p) {
			t.Errorf("process %d outlives the VMM", p)
		}
	}
	if exit, err := vm.Wait(t.Context()); err != nil || !strings.Contains(exit.Reason, "killed") {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if err := clh.Reap(t.Context(), filepath.Join(dir, "sandbox"), process); err != nil {
		t.Errorf("reap: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestUnknownAccelerator(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "--api-socket", filepath.Join(t.TempDir(), "api.sock"))
	cmd.Env = append(os.Environ(), accelVariable+"=xen")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), `CLH_QEMU_ACCEL="xen"`) {
		t.Errorf("%v, output %q; want exit status 2 and the variable named", err, out)
	}
}
