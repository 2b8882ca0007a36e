package qemu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// The machine has one root bus. Each PCI segment from 1 on is a bridge on it,
// with a bus behind it that devices are plugged into as into the root bus. The
// bridges sit at the highest device numbers, in the order of their segments, so
// that the firmware, which numbers buses as it walks them, gives bus n to
// segment n. Linux keeps those numbers.

// maxBridges bounds the segments from 1 on: each takes a device number from
// the root bus.
const maxBridges = 12

// bridgeSlot is the device number of the bridge that stands for a segment.
func bridgeSlot(segments, segment int) uint8 { return uint8(slotsPerBus - segments + segment) }

const slotsPerBus = 32

// busAddress is where the guest finds the device that the API server put at a
// slot of a segment.
func busAddress(at hypervisor.BDF) hypervisor.BDF {
	at.Bus += uint8(at.Segment)
	at.Segment = 0
	return at
}

// busName is QEMU's name of a segment's bus.
func busName(segment int) string {
	if segment == 0 {
		return "pci.0"
	}
	return fmt.Sprintf("segment%d", segment)
}

// bridge is the device argument of a PCI bridge. ACPI announces what is plugged
// behind it, so it needs no hot-plug controller of its own.
type bridge struct {
	Driver  string `json:"driver"`
	ID      string `json:"id"`
	Bus     string `json:"bus"`
	Addr    string `json:"addr"`
	Chassis int    `json:"chassis_nr"`
	SHPC    bool   `json:"shpc"`
	IO      int    `json:"io-reserve"`
	Memory  int    `json:"mem-reserve"`
	Wide    int    `json:"pref64-reserve"`
}

// addBridges adds a bridge for each segment but the first.
func (c *command) addBridges(segments int) error {
	for s := 1; s < segments; s++ {
		b := bridge{Driver: "pci-bridge", ID: busName(s), Bus: busName(0), Addr: fmt.Sprintf("%02x", bridgeSlot(segments, s)), Chassis: s, Memory: 1 << 20, Wide: 2 << 20}
		if err := c.addJSON("-device", b); err != nil {
			return err
		}
	}
	if segments < 2 {
		return nil
	}
	table, err := memoryFile("interrupt routing", routingTable(segments))
	if err != nil {
		return err
	}
	c.own = append(c.own, table)
	c.add("-acpitable", fmt.Sprintf("sig=SSDT,rev=2,oem_id=KATACC,oem_table_id=BRIDGES,data=/dev/fd/%d", c.file(table)))
	return nil
}

// memoryFile is an unnamed file with the content.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file for the %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a file for the %s: %w", name, err)
	}
	return f, nil
}
