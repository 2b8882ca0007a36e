package qemu

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with the file of that name in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (-update accepts it):\n%s", path, got)
	}
}

// files gives n open files to be named in a command line.
func files(t *testing.T, n int) []*os.File {
	t.Helper()
	list := make([]*os.File, n)
	for i := range list {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		list[i] = f
	}
	return list
}

func TestCommandLine(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	fds := files(t, 7)
	for name, c := range map[string]struct {
		machine clhserver.Machine
		accel   Accel
		ch      channels
		images  []image
	}{
		"bare": {
			machine: clhserver.Machine{VCPUs: 1, Memory: 512 << 20, Kernel: "/k/vmlinuz"},
			accel:   TCG,
			ch:      channels{monitor: fds[0]},
		},
		"full": {
			machine: clhserver.Machine{
				VCPUs: 2, Memory: 2 << 30, Kernel: "/k/vmlinuz", Initramfs: "/k/initrd.img", Cmdline: `panic=1 x="a,b" console=ttyS0`,
				Disks: []clhserver.Disk{
					{ID: "_disk0", Path: `/i/a,b="c".img`, ReadOnly: true, Serial: `s,"1`, At: at(2)},
					{ID: "data", Path: "/dev/vdz", At: at(3), Limits: clhserver.Limits{
						Bandwidth: clhserver.Bucket{Size: 10 << 20, Once: 50 << 20, Refill: time.Second},
						Ops:       clhserver.Bucket{Size: 100, Refill: 2 * time.Second},
					}},
				},
				Nets: []clhserver.Net{
					{ID: "eth0", MAC: mac, Taps: fds[4:5], At: at(4)},
					{ID: "eth1", MAC: mac, Taps: fds[5:7], At: at(31)},
				},
				RNG:    &clhserver.RNG{Source: "/dev/urandom", At: at(6)},
				Vsock:  &clhserver.Vsock{ID: "_vsock2", CID: 3, Socket: "/s/clh.sock", At: at(7)},
				Serial: clhserver.Console{Out: &bytes.Buffer{}},
				Virtio: clhserver.Console{Out: &bytes.Buffer{}, At: at(8)},
			},
			accel:  KVM,
			ch:     channels{monitor: fds[0], serial: fds[1], virtio: fds[2], vsock: fds[3]},
			images: []image{{driver: "file", size: 1000}, {driver: "host_device"}},
		},
		"segments": {
			machine: clhserver.Machine{
				Segments: 3, VCPUs: 1, Memory: 512 << 20, Kernel: "/k/vmlinuz",
				Disks: []clhserver.Disk{{ID: "_disk0", Path: "/d", ReadOnly: true, At: hypervisor.BDF{Segment: 2, Device: 5}}},
			},
			accel:  TCG,
			ch:     channels{monitor: fds[0]},
			images: []image{{driver: "file", size: 4096}},
		},
		"growing": {
			machine: clhserver.Machine{
				VCPUs: 1, MaxVCPUs: 4, Memory: 512 << 20, HotplugMemory: 1000 << 20, Hugepages: true,
				Kernel: "/k/vmlinuz", Cmdline: "panic=1",
			},
			accel: TCG,
			ch:    channels{monitor: fds[0]},
		},
		"null-consoles": {
			machine: clhserver.Machine{
				VCPUs: 1, Memory: 512 << 20, Kernel: "/k/vmlinuz",
				Serial: clhserver.Console{Out: io.Discard},
				Virtio: clhserver.Console{Out: io.Discard, At: at(2)},
			},
			accel: TCG,
			ch:    channels{monitor: fds[0]},
		},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := commandLine(c.machine, c.accel, c.ch, newNames(), c.images)
			if err != nil {
				t.Fatal(err)
			}
			defer line.close()
			golden(t, name+".args", strings.Join(line.args, "\n")+"\n")
			for i, arg := range line.args {
				if strings.HasPrefix(arg, "{") && !json.Valid([]byte(arg)) {
					t.Errorf("argument %d is no JSON: %s", i, arg)
				}
			}
		})
	}
}

func TestPositionsTheMachineLacks(t *testing.T) {
	for _, bdf := range []hypervisor.BDF{{Segment: maxBridges + 1, Device: 2}, {Bus: 1, Device: 2}, {Device: 2, Function: 1}} {
		if _, _, _, err := diskArguments(clhserver.Disk{ID: "d", Path: "/x", At: bdf}, "disk0", image{driver: "file"}); err == nil || !strings.Contains(err.Error(), bdf.String()) {
			t.Errorf("disk at %s: error %v, want one that names the position", bdf, err)
		}
	}
	if _, _, err := netArguments(clhserver.Net{ID: "eth0", At: at(2)}, "net0", nil); err == nil {
		t.Error("a network card without a tap was accepted")
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	short, good := filepath.Join(dir, "short"), filepath.Join(dir, "good")
	for path, size := range map[string]int{short: 511, good: 1000} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		short:                         "less than one sector",
		dir:                           "neither a regular file nor a block device",
		os.DevNull:                    "neither a regular file nor a block device",
		filepath.Join(dir, "missing"): "no such file",
	} {
		if _, err := inspect(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("inspect %s: error %v, want %q and the path", path, err, want)
		}
	}
	if img, err := inspect(good); err != nil || img != (image{driver: "file", size: 1000}) {
		t.Errorf("inspect %s: %+v, %v", good, img, err)
	}
}

func TestAccel(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"intel":   {"processor\t: 0\nflags\t\t: fpu vmx sse\n", true},
		"amd":     {"flags\t\t: fpu svm\n", true},
		"neither": {"model name\t: vmx svm\nflags\t\t: fpu vmxoff\n", false},
		"empty":   {"", false},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := hardwareVirtualization(path); (err == nil) != c.ok {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if err := tryKVM(filepath.Join(dir, "missing"), "/proc/cpuinfo"); !os.IsNotExist(err) {
		t.Errorf("no device: error %v", err)
	}
	if err := tryKVM(os.DevNull, "/proc/cpuinfo"); err == nil {
		t.Errorf("%s was taken for KVM", os.DevNull)
	}
}
