package image

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// BenchmarkBoot measures the time from the start of QEMU, without KVM, until
// the agent listens, for the choices that docs/guest.md reports. The metric is
// the median.
func BenchmarkBoot(b *testing.B) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		b.Skip("needs qemu-system-x86_64")
	}
	if lists, _ := filepath.Glob(cache + "/own/lists/*_Packages*"); len(lists) == 0 {
		b.Skip("needs Debian packages in .cache/debian: go run ./cmd/guest-image build")
	}
	agent, err := BuildProgram(b.Context(), AgentPackage)
	if err != nil {
		b.Fatal(err)
	}
	opener, err := BuildProgram(b.Context(), OpenerPackage)
	if err != nil {
		b.Fatal(err)
	}
	apt, err := debian.Open(debian.Options{Dir: cache, Architecture: "amd64"})
	if err != nil {
		b.Fatal(err)
	}
	dirs := map[Compression]string{}
	for _, c := range []Compression{Uncompressed, Zstd, Gzip} {
		img, err := Build(b.Context(), Options{Apt: apt, Agent: agent, Opener: opener, Compression: c, Modified: time.Unix(1704067200, 0)})
		if err != nil {
			b.Fatal(err)
		}
		dirs[c] = b.TempDir()
		if err := img.WriteTo(dirs[c]); err != nil {
			b.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, kernel string
		compression  Compression
		params, cpu  string
		disk         bool // the root disk and the ramdisk that opens it
	}{
		{"vmlinuz", BzImageFile, Uncompressed, "", "qemu64", false},
		{"vmlinux", KernelFile, Uncompressed, "", "qemu64", false},
		{"vmlinux-zstd", KernelFile, Zstd, "", "qemu64", false},
		{"vmlinux-gzip", KernelFile, Gzip, "", "qemu64", false},
		{"vmlinux-notests", KernelFile, Uncompressed, "cryptomgr.notests", "qemu64", false},
		{"vmlinux-notests-nehalem", KernelFile, Uncompressed, "cryptomgr.notests", "Nehalem", false},
		{"vmlinux-notests-max", KernelFile, Uncompressed, "cryptomgr.notests", "max", false},
		{"root-disk-notests", KernelFile, Uncompressed, "cryptomgr.notests", "qemu64", true},
	} {
		b.Run(test.name, func(b *testing.B) {
			dir := dirs[test.compression]
			initrd, params, args := InitrdFile, test.params, []string(nil)
			if test.disk {
				hash, err := os.ReadFile(filepath.Join(dir, RootHashFile))
				if err != nil {
					b.Fatal(err)
				}
				initrd, params = RootInitrdFile, params+" kata.root_hash="+strings.TrimSpace(string(hash))
				args = []string{"-drive", "if=virtio,format=raw,readonly=on,file=" + filepath.Join(dir, RootFile)}
			}
			args = append(args, "-M", "pc", "-accel", "tcg", "-cpu", test.cpu,
				"-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
				"-kernel", filepath.Join(dir, test.kernel), "-initrd", filepath.Join(dir, initrd),
				"-append", "console=ttyS0 panic=1 no_timer_check noreplace-smp quiet "+params)
			var took []time.Duration
			for b.Loop() {
				took = append(took, timeToAgent(b, exec.Command(qemu, args...)))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "median-ms")
		})
	}
}

// timeToAgent starts a machine, stops it once the agent says that it is ready,
// and returns how long that took.
func timeToAgent(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	console, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer cmd.Wait() // killed: its error says only that
	defer cmd.Process.Kill()
	late := context.AfterFunc(timeoutContext(b), func() { cmd.Process.Kill() })
	defer late()
	var said strings.Builder
	for lines := bufio.NewScanner(console); lines.Scan(); {
		if strings.Contains(lines.Text(), "agent is ready") {
			return time.Since(begin)
		}
		said.WriteString(lines.Text() + "\n")
	}
	b.Fatalf("the agent never got ready:\n%s", said.String())
	return 0
}

func timeoutContext(b *testing.B) context.Context {
	ctx, cancel := context.WithTimeout(b.Context(), bootTimeout)
	b.Cleanup(cancel)
	return ctx
}
