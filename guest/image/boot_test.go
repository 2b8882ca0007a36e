package image

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// cache is the apt directory that `guest-image build` fills.
const cache = "../../.cache/debian"

// cachedApt works from what was fetched before; it never touches the network.
func cachedApt(t *testing.T) *debian.Apt {
	t.Helper()
	if lists, _ := filepath.Glob(cache + "/own/lists/*_Packages*"); len(lists) == 0 {
		t.Skip("needs Debian packages in .cache/debian: go run ./cmd/guest-image build")
	}
	apt, err := debian.Open(debian.Options{Dir: cache, Architecture: "amd64", Progress: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	return apt
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func buildTest(t *testing.T, compression Compression) *Image {
	t.Helper()
	apt := cachedApt(t)
	init, err := BuildProgram(t.Context(), "./testdata/init")
	if err != nil {
		t.Fatal(err)
	}
	opener, err := BuildProgram(t.Context(), OpenerPackage) // it is modprobe too
	if err != nil {
		t.Fatal(err)
	}
	img, err := Build(t.Context(), Options{
		Apt: apt, Agent: init, Opener: opener, Debug: true, Compression: compression, Modified: time.Unix(1704067200, 0), Progress: testLog{t},
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestTwoBuildsGiveTheSameBytes(t *testing.T) {
	first, second := buildTest(t, Zstd), buildTest(t, Zstd)
	if !bytes.Equal(first.Initrd, second.Initrd) {
		t.Error("ramdisks differ")
	}
	if !bytes.Equal(first.Root.Disk, second.Root.Disk) || !bytes.Equal(first.Root.Initrd, second.Root.Initrd) {
		t.Error("root disks or their ramdisks differ")
	}
	if !bytes.Equal(first.Kernel, second.Kernel) || !bytes.Equal(first.BzImage, second.BzImage) {
		t.Error("kernels differ")
	}
	one, err := first.Manifest.JSON()
	if err != nil {
		t.Fatal(err)
	}
	two, err := second.Manifest.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("manifests differ")
	}
}

// The production image runs three programs and has no shell, so there is nobody
// whom a word on the kernel's command line could start.
func TestProductionImageHasNoShell(t *testing.T) {
	apt := cachedApt(t)
	init, err := BuildProgram(t.Context(), "./testdata/init")
	if err != nil {
		t.Fatal(err)
	}
	img, err := Build(t.Context(), Options{Apt: apt, Agent: init, Opener: init, Compression: Zstd, Modified: time.Unix(1704067200, 0)})
	if err != nil {
		t.Fatal(err)
	}
	var programs []string
	for _, f := range img.Manifest.Files {
		if f.Link != "" && f.Path != "/lib64/ld-linux-x86-64.so.2" && f.Path != "/var/run" {
			t.Errorf("%s is a link to %s", f.Path, f.Link)
		}
		if strings.HasPrefix(f.Mode, "-") && strings.Contains(f.Mode, "x") && !strings.Contains(f.Path, ".so") {
			programs = append(programs, f.Path)
		}
	}
	if want := "/init /sbin/modprobe /usr/bin/crun"; strings.Join(programs, " ") != want || img.Manifest.Kind != "production" {
		t.Errorf("the programs of the %s image are %q, want %s", img.Manifest.Kind, programs, want)
	}
}

// TestBoot boots each form of the kernel and has the guest try what is in it.
func TestBoot(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	for _, test := range []struct {
		kernel      string
		compression Compression
	}{{KernelFile, Uncompressed}, {BzImageFile, Zstd}} {
		t.Run(test.kernel+" "+string(test.compression), func(t *testing.T) {
			img := buildTest(t, test.compression)
			dir := t.TempDir()
			if err := img.WriteTo(dir); err != nil {
				t.Fatal(err)
			}
			console := boot(t, qemu, filepath.Join(dir, test.kernel), filepath.Join(dir, InitrdFile))
			for _, want := range []string{
				"init: reached",
				"init: modules loaded",
				"head -n 1: crun version ",
				"dmsetup ls: No devices found",
				"-f 1: verity",
				`tr '\n' ' ': ext4 nodevfuse nodevoverlay`,
				"/proc/filesystems: erofs",
				"cut -c 1: c c",
				"init: done",
			} {
				if !strings.Contains(console, want) {
					t.Errorf("the guest did not say %q", want)
				}
			}
			if t.Failed() || testing.Verbose() {
				t.Log(console)
			}
		})
	}
}

func boot(t *testing.T, qemu, kernel, initrd string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-M", "pc", "-accel", "tcg", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=1")
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("qemu: %v\n%s", err, console.String())
	}
	return console.String()
}

// bootTimeout bounds a guest's life: it takes two seconds alone on a machine.
const bootTimeout = 2 * time.Minute
