package clhserver

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

const (
	defaultMemory = 512 << 20
	defaultRNG    = "/dev/urandom"
	maxSerial     = 20 // bytes of a disk's serial number
	minCID        = 3
	anyCID        = 1<<32 - 1

	hostDataLength = 64 // hexadecimal digits
)

func ptr[T any](v T) *T { return &v }

func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// orElse sets *p where it is unset.
func orElse[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// fillDefaults sets what the description leaves open. An omitted console is
// not off: it writes to the VMM's standard output.
func fillDefaults(c *api.VmConfig) {
	orElse(&c.Cpus, api.CpusConfig{BootVcpus: 1, MaxVcpus: 1})
	orElse(&c.Memory, api.MemoryConfig{Size: defaultMemory})
	orElse(&c.Memory.Shared, false)
	orElse(&c.Memory.Hugepages, false)
	orElse(&c.Rng, api.RngConfig{Src: defaultRNG})
	orElse(&c.Serial, api.ConsoleConfig{Mode: api.ConsoleConfigModeNull})
	orElse(&c.Console, api.ConsoleConfig{Mode: api.ConsoleConfigModeTty})
	for i := range value(c.Disks) {
		fillDisk(&(*c.Disks)[i])
	}
	for i := range value(c.Net) {
		fillNet(&(*c.Net)[i])
	}
}

// forgetUnbuilt drops what the original knows only in builds with the feature:
// without a word, as any member that it does not know.
func forgetUnbuilt(c *api.VmConfig, features []string) {
	if !slices.Contains(features, "igvm") {
		c.Payload.Igvm = nil
	}
	if !slices.Contains(features, "sev_snp") {
		c.Payload.HostData = nil
		if c.Platform != nil {
			c.Platform.SevSnp = nil
		}
	}
}

// snp says whether the machine's memory is to be protected.
func snp(c *api.VmConfig) bool { return c.Platform != nil && value(c.Platform.SevSnp) }

func fillDisk(d *api.DiskConfig) {
	orElse(&d.Readonly, false)
	orElse(&d.Direct, false)
	orElse(&d.NumQueues, 1)
	orElse(&d.QueueSize, 128)
	orElse(&d.PciSegment, 0)
}

func fillNet(n *api.NetConfig) {
	orElse(&n.NumQueues, 2)
	orElse(&n.QueueSize, 256)
	orElse(&n.PciSegment, 0)
}

func segments(c *api.VmConfig) int {
	if c.Platform == nil || c.Platform.NumPciSegments == nil {
		return 1
	}
	return int(*c.Platform.NumPciSegments)
}

// validate checks a whole description, as vm.boot and every vm.add-* do.
func (s *server) validate(c *api.VmConfig) error {
	p := s.cfg.Profile
	bad := func(format string, a ...any) error {
		return fail(invalid, "Failed to validate config: "+format, a...)
	}
	if n, most := segments(c), s.backend.MaxSegments(); n < 1 || n > most {
		return bad("Number of PCI segments (%d) not in range of 1 to %d", n, most)
	}
	switch {
	case c.Cpus.BootVcpus < 1 || c.Cpus.MaxVcpus < c.Cpus.BootVcpus:
		return bad("Max CPUs (%d) fewer than boot CPUs (%d)", c.Cpus.MaxVcpus, c.Cpus.BootVcpus)
	case c.Memory.Size == 0:
		return bad("Memory size is 0")
	case p.SNPNeedsIGVM && snp(c) && value(c.Payload.Igvm) == "":
		return bad("SEV-SNP without an IGVM file")
	case c.Payload.HostData != nil && len(*c.Payload.HostData) != hostDataLength && (snp(c) || !p.SNPNeedsIGVM):
		return bad("Host data of %d characters, not %d", len(*c.Payload.HostData), hostDataLength)
	case value(c.Payload.Igvm) != "" && snp(c): // whatever else the payload has
	case value(c.Payload.Kernel) == "" && value(c.Payload.Firmware) == "":
		return bad("No kernel specified")
	case value(c.Payload.Kernel) != "" && value(c.Payload.Firmware) != "":
		return bad("Specified both kernel and firmware")
	case value(c.Payload.Firmware) != "":
		return bad("Booting a firmware is not supported by this machine")
	}
	ids := map[string]bool{}
	for _, d := range value(c.Disks) {
		if err := validateDisk(p, c, &d, ids, bad); err != nil {
			return err
		}
	}
	for _, n := range value(c.Net) {
		if err := validateNet(c, &n, ids, bad); err != nil {
			return err
		}
	}
	if v := c.Vsock; v != nil {
		if v.Cid < minCID || v.Cid >= anyCID {
			return bad("Vsock CID %d is reserved", v.Cid)
		}
		if v.Socket == "" {
			return bad("Vsock socket is missing")
		}
		return claim(ids, c, v.Id, v.PciSegment, bad)
	}
	return nil
}

func validateDisk(p Profile, c *api.VmConfig, d *api.DiskConfig, ids map[string]bool, bad func(string, ...any) error) error {
	switch {
	case value(d.Path) == "":
		return bad("Disk path missing")
	case *d.NumQueues < 1 || *d.NumQueues > c.Cpus.BootVcpus:
		return bad("Number of queues (%d) of a disk exceeds the number of vCPUs (%d)", *d.NumQueues, c.Cpus.BootVcpus)
	case *d.QueueSize < 1:
		return bad("Queue size of a disk is 0")
	case p.SerialLimit && len(value(d.Serial)) > maxSerial:
		return bad("Disk serial %q is longer than %d bytes", *d.Serial, maxSerial)
	case d.ImageType != nil && *d.ImageType != api.ImageTypeRaw && *d.ImageType != api.ImageTypeUnknown:
		return bad("Image type %s is not supported by this machine", *d.ImageType)
	}
	return claim(ids, c, d.Id, d.PciSegment, bad)
}

func validateNet(c *api.VmConfig, n *api.NetConfig, ids map[string]bool, bad func(string, ...any) error) error {
	if q := *n.NumQueues; q < 2 || q%2 != 0 || q/2 > c.Cpus.BootVcpus {
		return bad("Number of queues (%d) of a network card does not fit %d vCPUs", q, c.Cpus.BootVcpus)
	}
	return claim(ids, c, n.Id, n.PciSegment, bad)
}

// claim checks what every device has: its id and its segment.
func claim(ids map[string]bool, c *api.VmConfig, id *string, segment *int16, bad func(string, ...any) error) error {
	if s := value(segment); s < 0 || int(s) >= segments(c) {
		return bad("Invalid PCI segment %d: there are %d", s, segments(c))
	}
	if id == nil {
		return nil
	}
	if strings.HasPrefix(*id, "__") {
		return bad("Identifier %s is not valid", *id)
	}
	if ids[*id] {
		return fail(duplicate, "Failed to validate config: Identifier %s is not unique", *id)
	}
	ids[*id] = true
	return nil
}

// openConsoles opens what the consoles write to, at vm.create as versions from
// 40 on do.
func (v *vm) openConsoles(stdout io.Writer) error {
	for _, c := range []struct {
		name string
		conf *api.ConsoleConfig
		out  *Console
	}{{"serial", v.config.Serial, &v.serial}, {"console", v.config.Console, &v.virtio}} {
		switch c.conf.Mode {
		case api.ConsoleConfigModeOff:
		case api.ConsoleConfigModeNull:
			c.out.Out = io.Discard
		case api.ConsoleConfigModeTty:
			c.out.Out = stdout
		case api.ConsoleConfigModeFile:
			f, err := os.Create(value(c.conf.File))
			if err != nil {
				return fail(other, "Error creating %s device: %v", c.name, err)
			}
			v.files = append(v.files, f)
			c.out.Out = f
		default:
			return fail(other, "Error creating %s device: mode %q is not supported by this machine", c.name, c.conf.Mode)
		}
	}
	return nil
}

// tapKey is under which name the descriptors of the i-th NIC are kept: it has
// no id before boot unless the client gave one.
func tapKey(i int) string { return fmt.Sprintf("#%d", i) }
