package qemu

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// wantNothingLeft fails unless descriptors, children and goroutines are as they
// were when it was called first; that it returns as a function.
func wantNothingLeft(t *testing.T) func() {
	t.Helper()
	count := func() (fds, children string, goroutines int) {
		// What the test itself left, such as timers' threads, is no child.
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		tasks, err := filepath.Glob("/proc/self/task/*/children")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			b, _ := os.ReadFile(task) // a thread that has ended has none
			children += string(b)
		}
		return fmt.Sprint(len(list)), children, runtime.NumGoroutine()
	}
	runtime.GC()
	fds, children, goroutines := count()
	return func() {
		t.Helper()
		var fdsNow, childrenNow string
		var goroutinesNow int
		for range 100 { // what has been told to end may take a moment
			runtime.GC()
			fdsNow, childrenNow, goroutinesNow = count()
			if fdsNow == fds && childrenNow == children && goroutinesNow <= goroutines {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		stacks := make([]byte, 1<<20)
		t.Errorf("left: %s descriptors of %s, children %q of %q, %d goroutines of %d\n%s", fdsNow, fds, childrenNow, children,
			goroutinesNow, goroutines, stacks[:runtime.Stack(stacks, true)])
	}
}

func TestMachinesThatDoNotBoot(t *testing.T) {
	o := programs(t)
	kernel, _ := guestFiles(t)
	dir := t.TempDir()
	text, missing := filepath.Join(dir, "text"), filepath.Join(dir, "missing")
	if err := os.WriteFile(text, []byte(strings.Repeat("no kernel\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(m *clhserver.Machine)
		want   string
	}{
		"no kernel":     {func(m *clhserver.Machine) { m.Kernel = missing }, "kernel: open " + missing},
		"not a kernel":  {func(m *clhserver.Machine) { m.Kernel = text }, "qemu-system-x86_64 ended"},
		"no ramdisk":    {func(m *clhserver.Machine) { m.Initramfs = missing }, "initial ramdisk: open " + missing},
		"no disk":       {func(m *clhserver.Machine) { m.Disks[0].Path = missing }, "disk _disk0: stat " + missing},
		"two in a slot": {func(m *clhserver.Machine) { m.Disks[0].At = at(3) }, "PCI"},
		"no entropy":    {func(m *clhserver.Machine) { m.RNG = &clhserver.RNG{Source: missing, At: at(4)} }, missing},
		"no directory":  {func(m *clhserver.Machine) { m.Vsock.Socket = missing + "/clh.sock" }, "vsock device _vsock0"},
		"socket exists": {func(m *clhserver.Machine) { m.Vsock.Socket = text }, text},
		"too much memory": {func(m *clhserver.Machine) {
			m.Memory = 1 << 60
		}, "qemu-system-x86_64 ended"},
	} {
		t.Run(name, func(t *testing.T) {
			check := wantNothingLeft(t)
			events := newLog()
			b, err := New(o, events)
			if err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(t.TempDir(), "clh.sock")
			m := clhserver.Machine{
				VCPUs: 1, Memory: 128 << 20, Kernel: kernel, Serial: clhserver.Console{Out: io.Discard},
				Disks: []clhserver.Disk{{ID: "_disk0", Path: text, ReadOnly: true, At: at(2)}},
				Vsock: &clhserver.Vsock{ID: "_vsock0", CID: 3, Socket: socket, At: at(3)},
			}
			c.change(&m)
			err = b.Boot(t.Context(), m)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			if _, err := os.Lstat(socket); !os.IsNotExist(err) {
				t.Errorf("the vsock socket is there: %v", err)
			}
			if err := b.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if all := events.all(); len(all) > 0 {
				t.Errorf("events %q of a machine that never was", all)
			}
			check()
		})
	}
}

func TestCloseWhileBooting(t *testing.T) {
	o := programs(t)
	kernel, initrd := guestFiles(t)
	check := wantNothingLeft(t)
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond, 200 * time.Millisecond} {
		b, err := New(o, newLog())
		if err != nil {
			t.Fatal(err)
		}
		booted := make(chan error, 1)
		go func() {
			booted <- b.Boot(context.Background(), clhserver.Machine{VCPUs: 1, Memory: 256 << 20, Kernel: kernel, Initramfs: initrd})
		}()
		time.Sleep(after)
		if err := b.Close(); err != nil {
			t.Errorf("close after %s: %v", after, err)
		}
		<-booted // with or without an error
		if err := b.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
		if err := b.Boot(context.Background(), clhserver.Machine{Kernel: kernel}); err == nil {
			t.Error("a closed backend boots")
		}
	}
	check()
}

func TestPlugsThatFailLeaveNothing(t *testing.T) {
	check := wantNothingLeft(t)
	t.Run("machine", func(t *testing.T) {
		g := bootGuest(t, nil)
		conn := g.dial()
		defer conn.Close()
		path, _ := diskFile(t, "layer", 4096)
		good := clhserver.Disk{ID: "layer", Path: path, ReadOnly: true, At: at(5)}
		for want, change := range map[string]func(*clhserver.Disk){
			"no such file": func(d *clhserver.Disk) { d.Path += "x" },
			"PCI":          func(d *clhserver.Disk) { d.At = at(2) },
			"segment1":     func(d *clhserver.Disk) { d.At.Segment = 1 },
		} {
			d := good
			change(&d)
			err := g.backend.AddDisk(t.Context(), d)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), d.ID) || !strings.Contains(err.Error(), d.Path) {
				t.Errorf("error %v, want %q, the disk and its path in it", err, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.backend.AddDisk(ctx, good); err == nil {
			t.Error("a disk was plugged though nobody waits")
		}
		if err := g.backend.AddNet(t.Context(), clhserver.Net{ID: "eth0", At: at(6)}); err == nil {
			t.Error("a network card without a tap was plugged")
		}
		if err := g.backend.RemoveDevice(t.Context(), "_vsock0"); err == nil {
			t.Error("the vsock device was removed")
		}
		for range 500 { // the disk that nobody waited for goes when the guest lets go
			if _, ok := g.backend.machine.names.byID("layer"); !ok {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err := g.backend.AddDisk(t.Context(), good); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		g.log.wait(t, "activated layer")
	})
	check()
}
