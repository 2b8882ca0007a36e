package image

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/verity"
)

// TestGuestOnRootDisk boots the agent from the root disk; from one with a
// flipped byte, and with another root hash, the machine must stop and say why.
func TestGuestOnRootDisk(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	apt := cachedApt(t)
	agent, err := BuildProgram(t.Context(), AgentPackage)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := BuildProgram(t.Context(), OpenerPackage)
	if err != nil {
		t.Fatal(err)
	}
	img, err := Build(t.Context(), Options{Apt: apt, Agent: agent, Opener: opener, Compression: Uncompressed, Modified: time.Unix(1704067200, 0)})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := img.WriteTo(dir); err != nil {
		t.Fatal(err)
	}
	if err := verity.Verify(t.Context(), bytes.NewReader(img.Root.Disk), int64(len(img.Root.Disk)), img.Root.Hash); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(img.Root.Disk)
	flipped[bytes.Index(flipped, agent[:4096])+100] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "flipped.img"), flipped, 0o600); err != nil {
		t.Fatal(err)
	}
	const ready, corrupted = "agent is ready", "Kernel panic - not syncing: dm-verity device corrupted"
	for _, test := range []struct{ name, disk, hash, want, never string }{
		{"as built", RootFile, img.Root.Hash, ready, corrupted},
		{"flipped byte", "flipped.img", img.Root.Hash, corrupted, ready},
		{"other root hash", RootFile, strings.Repeat("0", 64), corrupted, ready},
		{"no root hash", RootFile, "", "the root disk does not start", ready},
	} {
		t.Run(test.name, func(t *testing.T) {
			said := consoleUntil(t, test.want, qemu, "-M", "pc", "-accel", "tcg", "-m", "256", "-nodefaults", "-no-user-config",
				"-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", filepath.Join(dir, KernelFile),
				"-initrd", filepath.Join(dir, RootInitrdFile), "-append", "console=ttyS0 quiet panic=1 agent.debug_console kata.root_hash="+test.hash,
				"-drive", "if=virtio,format=raw,readonly=on,file="+filepath.Join(dir, test.disk))
			if !strings.Contains(said, test.want) || strings.Contains(said, test.never) {
				t.Errorf("want %q and not %q on the console:\n%s", test.want, test.never, said)
			}
			if test.want == ready && !strings.Contains(said, "no debug console") {
				t.Errorf("the production image has a debug console:\n%s", said)
			}
		})
	}
}

// consoleUntil runs a machine until its console says a text or it ends.
func consoleUntil(t *testing.T, text, qemu string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, args...)
	console, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(console); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), text) {
			break
		}
	}
	cancel()
	_ = cmd.Wait() // killed: its error says only that
	return said.String()
}
