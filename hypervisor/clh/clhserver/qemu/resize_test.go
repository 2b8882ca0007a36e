package qemu

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// growing boots a machine of 1 processor and 512 MiB that may have 4 and 1 GiB
// more.
func growing(t *testing.T) *guest {
	return bootGuest(t, func(m *clhserver.Machine) {
		m.Segments = 2 // a table of ours for its bridge stands beside QEMU's
		m.Memory, m.MaxVCPUs, m.HotplugMemory = 512<<20, 4, clhserver.MemorySlots*clhserver.MemoryBlock
	})
}

func (g *guest) memory() int {
	g.t.Helper()
	conn := g.dial()
	defer conn.Close()
	n, err := strconv.Atoi(strings.Join(g.say(conn, "memory"), ""))
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

func TestGuestGrows(t *testing.T) {
	g := growing(t)
	ctx := t.Context()
	conn := g.dial()
	defer conn.Close()
	start := g.memory()
	if start < 460<<20 {
		t.Errorf("the guest has %d bytes of memory of 512 MiB: room for more costs too much", start)
	}
	// Every slot is used, and vsock follows each.
	for range clhserver.MemorySlots {
		if err := g.backend.AddMemory(ctx, clhserver.MemoryBlock); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.backend.AddMemory(ctx, clhserver.MemoryBlock); err == nil {
		t.Error("memory is added without a slot for it")
	}
	var backends []struct {
		ID string `json:"id"`
	}
	if err := g.backend.machine.run(ctx, "query-memdev", nil, &backends); err != nil || len(backends) != 1+clhserver.MemorySlots {
		t.Errorf("QEMU has the memory %v, %v; want that of the start and %d more", backends, err, clhserver.MemorySlots)
	}
	if err := g.backend.SetVCPUs(ctx, 3); err != nil {
		t.Fatal(err)
	}
	g.waitOnline(conn, 3)
	for want := start + clhserver.MemorySlots*clhserver.MemoryBlock*9/10; g.memory() < want; {
		g.say(conn, "online")
	}
	if err := g.backend.SetVCPUs(ctx, 5); err == nil || errors.Is(err, clhserver.ErrPending) {
		t.Errorf("five processors of four: %v", err)
	}
	left := 3
	if err := g.backend.SetVCPUs(ctx, 1); g.backend.options.Accel == TCG {
		if !errors.Is(err, errKept) {
			t.Errorf("fewer processors: %v, want %v", err, errKept)
		}
	} else {
		if err != nil {
			t.Fatal(err)
		}
		g.waitFor(conn, "cpus", []string{"1"})
		if err := g.setVCPUs(2); err != nil {
			t.Fatal(err)
		}
		left = 2
		g.waitOnline(conn, left)
	}

	// The machine that boots again has what this one had in the end.
	fmt.Fprintln(conn, "reboot")
	g.log.wait(t, "rebooted")
	again := g.dial()
	defer again.Close()
	g.waitFor(again, "cpus", []string{strconv.Itoa(left)})
	for want := start + clhserver.MemorySlots*clhserver.MemoryBlock*9/10; g.memory() < want; {
		g.say(again, "online")
	}
}

// waitOnline has the guest bring processors into use until it has n.
func (g *guest) waitOnline(conn net.Conn, n int) {
	g.t.Helper()
	for range 600 {
		g.say(conn, "online")
		if got := g.say(conn, "cpus"); fmt.Sprint(got) == fmt.Sprint([]int{n}) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	g.t.Fatalf("the guest has %v processors in use, want %d", g.say(conn, "cpus"), n)
}

// setVCPUs asks again while the guest lets go of others.
func (g *guest) setVCPUs(n int) (err error) {
	for range 600 {
		if err = g.backend.SetVCPUs(g.t.Context(), n); !errors.Is(err, clhserver.ErrPending) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
