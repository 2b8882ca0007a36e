package vhostvsock

import (
	"encoding/binary"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Memory that is added while a machine runs: the guest's, its place in QEMU, and
// how much of it.
const (
	addedGuest = 1 << 32
	addedUser  = userBase + 1<<32
	addedSize  = 1 << 16
)

// added is a file that stands for added memory, and a view of it.
func added(t *testing.T) (*os.File, []byte) {
	t.Helper()
	fd, err := unix.MemfdCreate("added", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "added")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(addedSize); err != nil {
		t.Fatal(err)
	}
	view, err := unix.Mmap(fd, 0, addedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(view) })
	return f, view
}

// speaks fails unless a stream passes data both ways.
func (g *guest) speaks(client io.ReadWriter, request packet, word string) {
	g.t.Helper()
	if _, err := io.WriteString(client, word); err != nil {
		g.t.Fatal(err)
	}
	if _, data := g.expect(opData); data != word {
		g.t.Fatalf("the guest got %q, want %q", data, word)
	}
	g.say(to(request, opData), word)
	got := make([]byte, len(word))
	if _, err := io.ReadFull(client, got); err != nil || string(got) != word {
		g.t.Fatalf("the client got %q, %v, want %q", got, err, word)
	}
}

// sayFrom is say with the packet in added memory.
func (g *guest) sayFrom(view []byte, p packet) {
	g.t.Helper()
	copy(view, p.append(nil))
	g.describe(tx, 0, addedGuest, packetSize, 0, 0)
	g.publish(tx, 0)
	if _, ok := g.returned(tx, 10*time.Second); !ok {
		g.t.Fatalf("the device did not take what is in added memory; its end: %v", g.device.Err())
	}
}

// Memory comes to a running machine by another whole table, or by a region of its
// own: streams go on, and the guest may use it.
func TestMemoryIsAddedToARunningMachine(t *testing.T) {
	for name, add := range map[string]func(g *guest, f *os.File){
		"table": func(g *guest, f *os.File) {
			table := append(u32s(2, 0), u64s(0, memorySize, userBase, 0, addedGuest, addedSize, addedUser, 0)...)
			g.ask(setMemTable, table, g.memfd, f)
		},
		"region": func(g *guest, f *os.File) {
			g.ask(addMemReg, u64s(0, addedGuest, addedSize, addedUser, 0), f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := running(t)
			client, request := g.connected()
			g.speaks(client, request, "before")
			f, view := added(t)
			add(g, f)
			g.speaks(client, request, "after")
			closing := to(request, opShutdown)
			closing.flags = noSend | noReceive
			g.sayFrom(view, closing)
			g.expect(opReset)
			wantEnd(t, client, "")
		})
	}
}

// QEMU changes a region by removing it and adding what it has become. Rings in it
// rest meanwhile, and nothing that was said then is lost.
func TestRegionWithTheRingsIsChanged(t *testing.T) {
	g := running(t)
	client, request := g.connected()
	whole := u64s(0, 0, memorySize, userBase, 0)
	g.ask(remMemReg, whole)
	if _, err := io.WriteString(client, "meanwhile"); err != nil {
		t.Fatal(err)
	}
	g.silent()
	g.ask(addMemReg, whole, g.memfd)
	if _, data := g.expect(opData); data != "meanwhile" {
		t.Errorf("the guest got %q", data)
	}
	g.speaks(client, request, "after")
	// A ring that was stopped while its memory was away stays stopped.
	g.ask(remMemReg, whole)
	g.stop()
	g.ask(addMemReg, whole, g.memfd)
	g.silent()
	if err := g.device.Err(); err != nil {
		t.Error(err)
	}
}

func TestRegionsThatCannotBe(t *testing.T) {
	for name, bad := range map[string]func(g *guest, f *os.File){
		"removed without being there": func(g *guest, _ *os.File) {
			g.tell(remMemReg, u64s(0, addedGuest, addedSize, addedUser, 0))
		},
		"without a file": func(g *guest, _ *os.File) {
			g.tell(addMemReg, u64s(0, addedGuest, addedSize, addedUser, 0))
		},
		"larger than its file": func(g *guest, f *os.File) {
			g.tell(addMemReg, u64s(0, addedGuest, addedSize+1, addedUser, 0), f)
		},
		"cut short": func(g *guest, f *os.File) { g.tell(addMemReg, u64s(0, addedGuest, addedSize), f) },
		"too many": func(g *guest, f *os.File) {
			for i := range uint64(maxRegions) {
				g.tell(addMemReg, u64s(0, addedGuest+i*addedSize, addedSize, addedUser+i*addedSize, 0), f)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := running(t)
			f, _ := added(t)
			bad(g, f)
			select {
			case <-g.device.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the device goes on")
			}
			if g.device.Err() == nil {
				t.Error("the device ended without a reason")
			}
		})
	}
	g := newGuest(t)
	if most := binary.LittleEndian.Uint64(g.ask(getMaxMemSlots, nil)); most != maxRegions {
		t.Errorf("the device takes %d regions, want %d", most, maxRegions)
	}
}
