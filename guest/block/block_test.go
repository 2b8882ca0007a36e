package block

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

func TestParsePosition(t *testing.T) {
	for in, want := range map[string]Position{
		"0000:00:05.0": "0000:00:05.0", "0001:00:1F.7": "0001:00:1f.7",
		"05": "05.0", "5": "05.0", "02/01.1": "02.0/01.1",
		"": "", "/": "", "05/": "", "0000:00:05": "", "0000:00:25.0": "", "05.8": "", "05/0000:00:01.0": "",
		"../../x": "", "0000:00:05.0/..": "", strings.Repeat("1/", maxBridges) + "1": "",
	} {
		got, err := ParsePosition(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParsePosition(%q) = %q, %v, want %q", in, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "should have the format DDDD:BB:SS.F") {
			t.Errorf("ParsePosition(%q) says %v", in, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"0000:00:05.0", "05/02", "1f.7/00.0", "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			return
		}
		if again, err := ParsePosition(string(p)); again != p || err != nil {
			t.Errorf("%q became %q, which became %q, %v", s, p, again, err)
		}
		if strings.Contains(string(p), "..") || strings.ContainsAny(string(p), "*?[") {
			t.Errorf("%q became %q", s, p)
		}
	})
}

// tree makes the files of a sysfs.
func tree(t *testing.T, files ...string) Sysfs {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		if err := os.MkdirAll(filepath.Join(root, "bus/pci/devices", f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Sysfs(root)
}

func TestDiskByItsPosition(t *testing.T) {
	sysfs := tree(t,
		"0000:00:05.0/virtio3/block/vda",
		"0000:00:02.0/pci_bus/0000:01", "0000:01:03.0/virtio4/block/vdb",
		"0000:00:06.0/virtio5/net/eth0",
		"0000:00:07.0/virtio6/block/vdc", "0000:00:07.0/virtio7/block/vdd",
	)
	for position, want := range map[Position]string{"0000:00:05.0": "vda", "05.0": "vda", "02.0/03.0": "vdb", "06.0": "", "07.0": "", "05.0/01.0": "", "08.0": ""} {
		got, err := sysfs.Disk(position)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("disk at %s is %q, %v, want %q", position, got, err, want)
		}
		if err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("disk at %s: %v is not of a class that is waited for", position, err)
		}
	}
}

func TestParseUevent(t *testing.T) {
	message := "add@/devices/pci0000:00/0000:00:05.0/virtio3/block/vda\x00ACTION=add\x00DEVPATH=/devices/x/block/vda\x00SUBSYSTEM=block\x00MAJOR=254\x00DEVNAME=vda\x00SEQNUM=1\x00"
	got, ok := ParseUevent([]byte(message))
	want := Uevent{Action: "add", DevPath: "/devices/x/block/vda", Subsystem: "block", DevName: "vda"}
	if got != want || !ok {
		t.Errorf("got %+v, %v", got, ok)
	}
	for _, bad := range []string{"", "libudev\x00\xfe\xed\xca\xfe", "add@/x\x00", "ACTION=add\x00DEVPATH=/x\x00"} {
		if got, ok := ParseUevent([]byte(bad)); ok {
			t.Errorf("%q parsed as %+v", bad, got)
		}
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/x\x00ACTION=add\x00DEVPATH=/x\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := ParseUevent(b); ok && (e.Action == "" || strings.ContainsRune(e.DevPath+e.DevName, 0)) {
			t.Errorf("%q parsed as %+v", b, e)
		}
	})
}

func TestDiskThatNeverComes(t *testing.T) {
	finder := Finder{Sysfs: tree(t), Dev: t.TempDir(), Timeout: 10 * time.Millisecond}
	_, err := finder.Find(t.Context(), "0000:00:05.0")
	if err == nil || !strings.Contains(err.Error(), "waiting for uevent") {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := finder.Find(ctx, "05"); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if _, err := finder.Find(t.Context(), os.DevNull); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a character device is taken for a disk: %v", err)
	}
}

func TestNodeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := (Finder{Dev: "/nowhere"}).node(ctx, "vda"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}
