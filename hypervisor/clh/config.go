package clh

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

const (
	// guestCID is every guest's address. The device lives in the VMM, so the
	// addresses of two guests need not differ.
	guestCID = 3
	// vsockID names the vsock device. The root disk gets no id of ours: it is
	// then "_disk0", as everybody knows it from Cloud Hypervisor.
	vsockID = "vsock"
	rngPath = "/dev/urandom"
	// maxSocketPath is what the kernel takes as the path of a Unix socket.
	maxSocketPath = 107
	maxDiskID     = 63 // bytes
	maxSerial     = 20 // bytes; more ends some versions of the VMM
)

func apiSocket(dir string) string   { return filepath.Join(dir, "clh-api.sock") }
func vsockSocket(dir string) string { return filepath.Join(dir, "clh.sock") }

// vmConfig is the document of vm.create for a machine that lives in dir. It has
// only members that every version from 40 to 53 takes or ignores, and none that
// is unset.
func vmConfig(spec hypervisor.Spec, dir string, segments int) api.VmConfig {
	c := api.VmConfig{
		Cpus:     &api.CpusConfig{BootVcpus: int(spec.VCPUs), MaxVcpus: int(max(spec.VCPUs, spec.MaxVCPUs))},
		Memory:   &api.MemoryConfig{Size: spec.MemoryMiB << 20},
		Platform: &api.PlatformConfig{NumPciSegments: ptr(int16(segments))},
		Rng:      &api.RngConfig{Src: rngPath},
		Vsock:    &api.VsockConfig{Id: ptr(vsockID), Cid: guestCID, Socket: vsockSocket(dir)},
	}
	if spec.MaxMemoryMiB > spec.MemoryMiB {
		c.Memory.HotplugSize = ptr((spec.MaxMemoryMiB - spec.MemoryMiB) << 20)
	}
	c.Payload, c.Serial, c.Console = payload(spec)
	if spec.Confidential != nil {
		c.Platform.SevSnp = ptr(true)
	}
	if spec.Hugepages {
		c.Memory.Hugepages = ptr(true)
	}
	if spec.Image != "" {
		c.Disks = &[]api.DiskConfig{{
			Path: &spec.Image, Readonly: ptr(true), NumQueues: ptr(1), ImageType: ptr(api.ImageTypeRaw),
			RateLimiterConfig: limiter(spec.DiskRate),
		}}
	}
	return c
}

// payload is what the machine boots and where its consoles go. The serial console
// is the VMM's standard output, from the first byte on. A launch image brings its
// own command line: one for debugging writes to the virtio console, any other to
// none.
func payload(spec hypervisor.Spec) (p api.PayloadConfig, serial, virtio *api.ConsoleConfig) {
	tty := &api.ConsoleConfig{Mode: api.ConsoleConfigModeTty}
	off := &api.ConsoleConfig{Mode: api.ConsoleConfigModeOff}
	if c := spec.Confidential; c != nil {
		p.Igvm, p.HostData = &c.IGVM, &c.HostData
		if spec.Debug {
			return p, off, tty
		}
		return p, off, off
	}
	p.Kernel, p.Cmdline = &spec.Kernel, ptr(cmdline(spec))
	if spec.Initrd != "" {
		p.Initramfs = &spec.Initrd
	}
	return p, tty, off
}

// refill is in milliseconds how often a rate's tokens are given anew.
const refill = 1000

// limiter is nil for no limit: an empty one would be a member that does nothing.
func limiter(r hypervisor.Rate) *api.RateLimiterConfig {
	bucket := func(rate, burst uint64) *api.TokenBucket {
		if rate == 0 {
			return nil
		}
		b := &api.TokenBucket{Size: int64(rate), RefillTime: refill}
		if burst != 0 {
			b.OneTimeBurst = ptr(int64(burst))
		}
		return b
	}
	if r.Bytes == 0 && r.Ops == 0 {
		return nil
	}
	return &api.RateLimiterConfig{Bandwidth: bucket(r.Bytes, r.BytesBurst), Ops: bucket(r.Ops, r.OpsBurst)}
}

// cmdline is the guest kernel's command line. A root disk without an initial
// ramdisk is mounted by the kernel, read-only, unless spec says how else. The
// self-tests of the kernel's ciphers are left out: under emulation they take a
// tenth of the boot. What is kept per processor comes by single pages, since by
// huge ones accounting for it takes 4 MiB of a small guest.
func cmdline(spec hypervisor.Spec) string {
	words := []string{"panic=1", "no_timer_check", "noreplace-smp", "cryptomgr.notests", "percpu_alloc=page", "console=ttyS0,115200n8"}
	if !spec.Debug {
		words = append(words, "quiet")
	}
	extra := strings.Fields(spec.KernelParams)
	if spec.Image != "" && spec.Initrd == "" && !hasParameter(extra, "root") {
		words = append(words, "root=/dev/vda1", "rootflags=data=ordered,errors=remount-ro", "ro", "rootfstype=ext4")
	}
	if spec.KernelParams != "" {
		words = append(words, spec.KernelParams)
	}
	return strings.Join(words, " ")
}

func hasParameter(words []string, key string) bool {
	for _, w := range words {
		if strings.HasPrefix(w, key+"=") {
			return true
		}
	}
	return false
}

// netConfig is the document of vm.add-net; the tap travels beside it.
func netConfig(n hypervisor.NIC, r hypervisor.Rate) api.NetConfig {
	return api.NetConfig{Id: &n.ID, Mac: ptr(n.MAC.String()), NumQueues: ptr(2), QueueSize: ptr(256), RateLimiterConfig: limiter(r)}
}

// diskConfig is the document of vm.add-disk. It states the image's type: a VMM
// that guessed it from the content would let the author of a layer choose.
func diskConfig(d hypervisor.Disk, segment uint16, r hypervisor.Rate) api.DiskConfig {
	c := api.DiskConfig{
		Id: &d.ID, Path: &d.Path, Readonly: &d.ReadOnly, RateLimiterConfig: limiter(r),
		NumQueues: ptr(1), ImageType: ptr(api.ImageTypeRaw), PciSegment: ptr(int16(segment)),
	}
	if d.Serial != "" {
		c.Serial = &d.Serial
	}
	return c
}

// checkSpec refuses what would fail later with less to say.
func checkSpec(spec hypervisor.Spec, dir string) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case spec.ID == "" || spec.ID != filepath.Base(spec.ID) || spec.ID == "." || spec.ID == "..":
		return bad("sandbox id %q cannot name a directory", spec.ID)
	case len(apiSocket(dir)) > maxSocketPath:
		return bad("path of the API socket %s is longer than %d bytes", apiSocket(dir), maxSocketPath)
	case spec.VCPUs == 0 || spec.MemoryMiB == 0:
		return bad("machine with %d vCPUs and %d MiB of memory", spec.VCPUs, spec.MemoryMiB)
	case spec.Confidential != nil && (spec.Kernel != "" || spec.Initrd != "" || spec.KernelParams != ""):
		return bad("kernel, initial ramdisk or kernel parameters beside a launch image, which has its own")
	case spec.Confidential != nil && (spec.MaxVCPUs > spec.VCPUs || spec.MaxMemoryMiB > spec.MemoryMiB):
		return bad("a launch image for a machine that can grow")
	case spec.Confidential != nil && spec.Image == "":
		return bad("a launch image without a root disk")
	case spec.Confidential == nil && spec.Kernel == "":
		return bad("no kernel")
	case spec.Initrd == "" && spec.Image == "":
		return bad("neither an initial ramdisk nor a root disk")
	}
	if spec.Confidential != nil {
		if err := checkConfidential(*spec.Confidential); err != nil {
			return err
		}
	}
	for _, n := range spec.NICs {
		if err := checkID(n.ID); err != nil {
			return err
		}
		if n.Tap == nil {
			return bad("network card %s has no tap", n.ID)
		}
	}
	return nil
}

func checkDisk(d hypervisor.Disk) error {
	if err := checkID(d.ID); err != nil {
		return err
	}
	if len(d.Serial) > maxSerial {
		return fmt.Errorf("serial number %q is longer than %d bytes: %w", d.Serial, maxSerial, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(d.Path) {
		return fmt.Errorf("path %q is not absolute: %w", d.Path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkID keeps ids apart from the VMM's own, which begin with an underscore.
func checkID(id string) error {
	if id == "" || len(id) > maxDiskID || strings.HasPrefix(id, "_") || id == vsockID {
		return fmt.Errorf("device id %q: want 1 to %d bytes, not beginning with an underscore, not %q: %w", id, maxDiskID, vsockID, errdefs.ErrInvalidArgument)
	}
	return nil
}

func ptr[T any](v T) *T { return &v }
