// Package block finds the guest's block devices by their place on the PCI bus.
package block

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
)

// Position is where a device sits: an address "DDDD:BB:SS.F", or a path of slots
// "SS[.F]/SS[.F]/..." from the root bus 0000:00, one bridge per slash; numbers
// are hexadecimal.
type Position string

var (
	address = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]$`)
	slot    = regexp.MustCompile(`^[0-1]?[0-9a-f](\.[0-7])?$`)
)

// maxBridges bounds the length of a path; the bus numbers of PCI allow 255.
const maxBridges = 32

// ParsePosition reads either form of a position.
func ParsePosition(s string) (Position, error) {
	s = strings.ToLower(s)
	if address.MatchString(s) {
		return Position(s), nil
	}
	slots := strings.Split(s, "/")
	if len(slots) > maxBridges || strings.Contains(s, ":") {
		return "", errPosition(s)
	}
	for i, e := range slots {
		if !slot.MatchString(e) {
			return "", errPosition(s)
		}
		number, function, ok := strings.Cut(e, ".")
		if !ok {
			function = "0"
		}
		slots[i] = fmt.Sprintf("%02s.%s", number, function)
	}
	return Position(strings.Join(slots, "/")), nil
}

func errPosition(s string) error {
	return fmt.Errorf("PCI address %s should have the format DDDD:BB:SS.F, or SS[.F]/SS[.F] for a path: %w", s, errdefs.ErrInvalidArgument)
}

// Sysfs is the device tree that positions are looked up in.
type Sysfs string

// address is the address of the device at p, as sysfs knows it now.
func (s Sysfs) address(p Position) (string, error) {
	if strings.Contains(string(p), ":") {
		return string(p), nil
	}
	slots := strings.Split(string(p), "/")
	at := "0000:00:" + slots[0]
	for _, next := range slots[1:] {
		// A bridge names the bus behind it, "DDDD:BB".
		buses, err := os.ReadDir(filepath.Join(string(s), "bus/pci/devices", at, "pci_bus"))
		if err != nil {
			return "", err
		}
		if len(buses) != 1 {
			return "", fmt.Errorf("PCI device %s has %d buses behind it, not one: %w", at, len(buses), errdefs.ErrNotFound)
		}
		at = buses[0].Name() + ":" + next
	}
	return at, nil
}

// Disk is the name of the block device at p ("vda"). An error of class NotFound
// or fs.ErrNotExist says that there is none yet.
func (s Sysfs) Disk(p Position) (string, error) {
	at, err := s.address(p)
	if err != nil {
		return "", err
	}
	pattern := filepath.Join(string(s), "bus/pci/devices", at, "virtio*", "block", "*")
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("PCI device %s has %d disks, not one: %w", at, len(found), errdefs.ErrNotFound)
	}
	return filepath.Base(found[0]), nil
}
