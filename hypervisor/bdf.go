package hypervisor

import (
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
)

// BDF is the position of a PCI function as the VMM prints it. The zero value is
// the host bridge of segment 0, which is never a disk.
type BDF struct {
	Segment  uint16
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParseBDF reads "SSSS:BB:DD.F" (hexadecimal, lower or upper case), the form in
// which Cloud Hypervisor answers a hot-plug. Nothing else is accepted.
func ParseBDF(s string) (BDF, error) {
	bad := func() (BDF, error) {
		return BDF{}, fmt.Errorf("parse PCI position %q: not of the form SSSS:BB:DD.F: %w", s, errdefs.ErrInvalidArgument)
	}
	if len(s) != len("0000:00:00.0") || s[4] != ':' || s[7] != ':' || s[10] != '.' {
		return bad()
	}
	var parts [4]uint64
	for i, f := range []string{s[0:4], s[5:7], s[8:10], s[11:12]} {
		n, err := strconv.ParseUint(f, 16, 16)
		if err != nil {
			return bad()
		}
		parts[i] = n
	}
	if parts[2] > 31 || parts[3] > 7 {
		return bad()
	}
	return BDF{uint16(parts[0]), uint8(parts[1]), uint8(parts[2]), uint8(parts[3])}, nil
}

// String gives the form that ParseBDF reads, in lower case. Agents of the azl
// line take it as it is.
func (b BDF) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", b.Segment, b.Bus, b.Device, b.Function)
}

// PCIPath gives the position as agents from 4.x on walk it: the device number
// on the root bus of segment 0. It fails for any other bus.
func (b BDF) PCIPath() (string, error) {
	if b.Segment != 0 || b.Bus != 0 || b.Function != 0 {
		return "", fmt.Errorf("PCI position %s is not on the root bus of segment 0, so it has no PCI path: %w", b, errdefs.ErrInvalidArgument)
	}
	return fmt.Sprintf("%02x", b.Device), nil
}
