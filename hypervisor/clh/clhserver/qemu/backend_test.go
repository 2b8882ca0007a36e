package qemu

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// diskFile makes a file of size random bytes and gives its path and the
// SHA-256 of the sectors that a guest sees.
func diskFile(t testing.TB, name string, size int) (path, sum string) {
	t.Helper()
	content := make([]byte, size)
	rand.Read(content)
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o400); err != nil {
		t.Fatal(err)
	}
	return path, fmt.Sprintf("%d %x", size/512*512, sha256.Sum256(content[:size/512*512]))
}

// deviceDir is where the guest has a disk: behind a bridge, or on the root bus.
var deviceDir = regexp.MustCompile(`^/sys/devices/pci0000:00/(?:0000:00:[0-9a-f]{2}\.0/)?(0000:[0-9a-f]{2}:[0-9a-f]{2}\.0)/virtio\d+/block/(vd[a-z]+)$`)

func TestGuestSeesDisksAtTheirSlots(t *testing.T) {
	boot, bootSum := diskFile(t, "boot,disk=1", 5*512+100)
	const segments = 4
	g := bootGuest(t, func(m *clhserver.Machine) {
		m.Segments = segments
		m.Disks = []clhserver.Disk{{ID: "_disk0", Path: boot, ReadOnly: true, Serial: "boot", At: at(4), Limits: limits()}}
	})
	g.wantLimits(1)
	conn := g.dial()
	defer conn.Close()
	sums := map[string]string{"0000:00:04.0 boot": bootSum}
	for i := range 20 {
		serial := fmt.Sprintf("layer-%d", i)
		path, sum := diskFile(t, serial, 4096*(i+1))
		slot := hypervisor.BDF{Segment: uint16(i % segments), Device: uint8(5 + i)}
		if err := g.backend.AddDisk(t.Context(), clhserver.Disk{ID: "layer/" + serial, Path: path, ReadOnly: true, Serial: serial, At: slot}); err != nil {
			t.Fatal(err)
		}
		sums[g.backend.Address(slot).String()+" "+serial] = sum
		g.log.wait(t, "activated layer/"+serial)
	}
	var lines []string
	for range 100 { // the driver has the disks; their names come a little later
		if lines = g.say(conn, "disks"); len(lines) == len(sums) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, line := range lines {
		dir, serial, _ := strings.Cut(line, " ")
		found := deviceDir.FindStringSubmatch(dir)
		if found == nil {
			t.Errorf("disk at %s", dir)
			continue
		}
		key := found[1] + " " + serial
		if got := strings.Join(g.say(conn, "read %s", found[2]), "\n"); got != sums[key] {
			t.Errorf("disk %s reads as %q, want %q", key, got, sums[key])
		}
		delete(sums, key)
	}
	if len(sums) > 0 {
		t.Errorf("disks that the guest does not see: %v", sums)
	}
}

func TestUnplugGivesSlotAndFileBack(t *testing.T) {
	g := bootGuest(t, nil)
	conn := g.dial()
	defer conn.Close()
	path, _ := diskFile(t, "layer", 4096)
	if err := os.Chmod(path, 0o600); err != nil { // only the lock keeps a writer out
		t.Fatal(err)
	}
	disk := clhserver.Disk{ID: "layer", Path: path, ReadOnly: true, Serial: "one", At: at(5), Limits: limits()}
	for i := range 3 {
		if err := g.backend.AddDisk(t.Context(), disk); err != nil {
			t.Fatal(err)
		}
		g.waitFor(conn, "disks", []string{fmt.Sprintf("/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda %s", disk.Serial)})
		// A writer must be refused while the guest has the disk, and only then.
		writer := clhserver.Disk{ID: "writer", Path: path, At: at(6), Limits: limits()}
		if err := g.backend.AddDisk(t.Context(), writer); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v for a second, writing user of the file, want one that names it", err)
		}
		g.wantLimits(1)
		for range 2 { // to ask again is no error
			if err := g.backend.RemoveDevice(t.Context(), "layer"); err != nil {
				t.Errorf("round %d: %v", i, err)
			}
		}
		g.log.wait(t, "removed layer")
		g.log.mu.Lock()
		g.log.events = nil
		g.log.mu.Unlock()
		g.waitFor(conn, "disks", nil)
		g.wantLimits(0)
	}
	volume := clhserver.Disk{ID: "volume", Path: path, At: at(5), Limits: limits()}
	if err := errors.Join(g.backend.AddDisk(t.Context(), volume), g.backend.ResizeDisk(t.Context(), "volume", 1<<20)); err != nil {
		t.Errorf("resize of a disk with limits: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 1<<20 {
		t.Errorf("its file: %+v, %v", info, err)
	}
	if err := g.backend.RemoveDevice(t.Context(), "layer"); err == nil {
		t.Error("a device that is gone was removed once more")
	}
}

func TestEndsOfAGuest(t *testing.T) {
	for command, event := range map[string]string{"poweroff": "powered off", "reboot": "rebooted", "panic": "panicked"} {
		t.Run(command, func(t *testing.T) {
			g := bootGuest(t, nil)
			conn := g.dial()
			defer conn.Close()
			if command == "panic" {
				const driver = "/sys/bus/platform/drivers/pvpanic-mmio/QEMU0001:00"
				if missing := g.say(conn, "has %s", driver); missing != nil {
					t.Skipf("needs the module pvpanic-mmio in the guest image: %s", missing)
				}
			}
			fmt.Fprintln(conn, command)
			io.Copy(io.Discard, conn) // the stream ends with the guest
			g.log.wait(t, event)
			if command != "poweroff" {
				g.log.wait(t, "rebooted") // after a panic because of panic=1
				g.dial().Close()          // the same machine boots again
				want := "[activated _vsock0 rebooted activated _vsock0]"
				if got := g.log.filtered("activated _vsock0", "rebooted"); fmt.Sprint(got) != want {
					t.Errorf("events %s, want %s", got, want)
				}
				return
			}
			if _, err := os.Lstat(g.socket); !os.IsNotExist(err) {
				t.Errorf("the vsock socket is still there: %v", err)
			}
			if err := g.backend.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown of a machine that is off: %v", err)
			}
		})
	}
}

func TestConsolesProcessorsMemory(t *testing.T) {
	const size = 5 << 30 // more than what fits below the PCI hole
	virtio := new(output)
	g := bootGuest(t, func(m *clhserver.Machine) {
		m.VCPUs, m.Memory = 2, size
		m.Virtio = clhserver.Console{Out: virtio, At: at(4)}
	})
	conn := g.dial()
	defer conn.Close()
	if got := g.say(conn, "cpus"); fmt.Sprint(got) != "[2]" {
		t.Errorf("processors %s, want 2", got)
	}
	if got, err := strconv.Atoi(strings.Join(g.say(conn, "memory"), "")); err != nil || got > size || got < size*9/10 {
		t.Errorf("memory %d, %v; want a little less than %d", got, err, size)
	}
	for device, o := range map[string]*output{"/dev/ttyS0": g.console, "/dev/hvc0": virtio} {
		if missing := g.say(conn, "has %s", device); missing != nil {
			t.Logf("not tested: %s", missing)
			continue
		}
		if answer := g.say(conn, "print %s words-for-%s", device, filepath.Base(device)); answer != nil {
			t.Errorf("write to %s: %s", device, answer)
		}
		want := "words-for-" + filepath.Base(device)
		for range 100 {
			if strings.Contains(o.String(), want) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if !strings.Contains(o.String(), want) {
			t.Errorf("%s printed %q, want %q in it", device, o, want)
		}
	}
}

func TestVsockSurvivesImpatientClients(t *testing.T) {
	g := bootGuest(t, nil)
	g.dial().Close()
	for i := range 300 {
		var d net.Dialer
		conn, err := d.DialContext(t.Context(), "unix", g.socket)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 6 {
		case 1:
			fmt.Fprint(conn, "CONN")
		case 2:
			fmt.Fprint(conn, "CONNECT 1024\n")
		case 3:
			fmt.Fprint(conn, "CONNECT 1024\ndisks\n")
			conn.Read(make([]byte, 3))
		case 4:
			fmt.Fprint(conn, "CONNECT 4000\n") // nobody listens there
		case 5:
			fmt.Fprint(conn, "CONNECT 1024\ndisks\n")
			conn.(*net.UnixConn).CloseWrite()
			io.Copy(io.Discard, conn)
		}
		conn.Close()
	}
	conn := g.dial()
	defer conn.Close()
	g.say(conn, "disks")
}

func TestKilledQEMUIsADeath(t *testing.T) {
	g := bootGuest(t, nil)
	g.dial().Close()
	g.backend.machine.qemu.cmd.Process.Kill()
	g.log.wait(t, "died: qemu-system-x86_64 ended: signal: killed")
	if _, err := os.Lstat(g.socket); !os.IsNotExist(err) {
		t.Errorf("the vsock socket is still there: %v", err)
	}
}

func TestPauseStopsTheGuest(t *testing.T) {
	g := bootGuest(t, nil)
	conn := g.dial()
	defer conn.Close()
	if err := g.backend.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := dialVsock(t.Context(), g.socket, 1024); err == nil {
		t.Error("a paused guest accepted a connection")
	}
	if err := g.backend.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.dial().Close()
}

func BenchmarkHotplug(b *testing.B) {
	b.Run("root-bus", func(b *testing.B) { benchmarkHotplug(b, at(5)) })
	b.Run("bridge", func(b *testing.B) { benchmarkHotplug(b, hypervisor.BDF{Segment: 1, Device: 5}) })
}

func benchmarkHotplug(b *testing.B, slot hypervisor.BDF) {
	g := bootGuest(b, func(m *clhserver.Machine) { m.Segments = 10 })
	g.dial().Close()
	path, _ := diskFile(b, "layer", 4096)
	var answered, activated, removed time.Duration
	n := 0
	for b.Loop() {
		id := fmt.Sprintf("layer-%d", n)
		n++
		start := time.Now()
		if err := g.backend.AddDisk(b.Context(), clhserver.Disk{ID: id, Path: path, ReadOnly: true, At: slot}); err != nil {
			b.Fatal(err)
		}
		answered += time.Since(start)
		g.log.wait(b, "activated "+id)
		activated += time.Since(start)
		start = time.Now()
		if err := g.backend.RemoveDevice(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		g.log.wait(b, "removed "+id)
		removed += time.Since(start)
	}
	for name, d := range map[string]time.Duration{"ms-answered": answered, "ms-activated": activated, "ms-removed": removed} {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(n), name)
	}
}

func BenchmarkVsockRoundTrip(b *testing.B) {
	g := bootGuest(b, nil)
	conn := g.dial()
	defer conn.Close()
	for b.Loop() {
		g.say(conn, "")
	}
}

func BenchmarkBoot(b *testing.B) {
	for b.Loop() {
		g := bootGuest(b, nil)
		g.dial().Close()
		if err := g.backend.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
