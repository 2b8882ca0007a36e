package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// The types here are arguments of QEMU's, for the command line and for QMP
// alike; both take JSON. Their names are QEMU's.

// blockdev is the host side of a disk: a raw format node on a file node.
type blockdev struct {
	Driver       string       `json:"driver"`
	NodeName     string       `json:"node-name,omitempty"` // of the topmost node: the disk's
	ReadOnly     bool         `json:"read-only"`
	AutoReadOnly bool         `json:"auto-read-only"`
	Discard      string       `json:"discard"`
	Size         int64        `json:"size,omitempty"`
	File         blockdevFile `json:"file"`
}

type blockdevFile struct {
	Driver       string `json:"driver"` // "file" or "host_device"
	Filename     string `json:"filename"`
	ReadOnly     bool   `json:"read-only"`
	AutoReadOnly bool   `json:"auto-read-only"`
	Discard      string `json:"discard"`
	Locking      string `json:"locking"`
}

// netdev is the host side of a network card.
type netdev struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	FD   string `json:"fd,omitempty"`  // one tap: a number, or a name given by getfd
	FDs  string `json:"fds,omitempty"` // several, separated by colons
}

// device is the side of a device that the guest sees.
type device struct {
	Driver        string  `json:"driver"`
	ID            string  `json:"id"`
	Bus           string  `json:"bus,omitempty"`
	Addr          string  `json:"addr,omitempty"`
	DisableLegacy string  `json:"disable-legacy,omitempty"`
	Drive         string  `json:"drive,omitempty"`
	Serial        string  `json:"serial,omitempty"`
	NumQueues     int     `json:"num-queues,omitempty"`
	Netdev        string  `json:"netdev,omitempty"`
	MAC           string  `json:"mac,omitempty"`
	MQ            bool    `json:"mq,omitempty"`
	Vectors       int     `json:"vectors,omitempty"`
	ROMFile       *string `json:"romfile,omitempty"`
	Chardev       string  `json:"chardev,omitempty"`
	MaxPorts      int     `json:"max_ports,omitempty"`
	RNG           string  `json:"rng,omitempty"`
}

// pciDevice is the part of a virtio device that says where it sits. Cloud
// Hypervisor knows only modern virtio, so a guest that works here with a legacy
// device would fail there.
func pciDevice(driver, id string, at hypervisor.BDF) (device, error) {
	if at.Segment > maxBridges || at.Bus != 0 || at.Function != 0 {
		return device{}, fmt.Errorf("PCI position %s: the machine has only function 0 on bus 0 of segments 0 to %d", at, maxBridges)
	}
	return device{Driver: driver, ID: id, Bus: busName(int(at.Segment)), Addr: fmt.Sprintf("%02x", at.Device), DisableLegacy: "on"}, nil
}

// image is what there is to know of a disk's file before QEMU opens it.
type image struct {
	driver string // QEMU's
	size   int64  // of a regular file
}

const sectorSize = 512

// errLimited is why a limited network card is refused: QEMU has no limit for one,
// and to set one on the tap takes a privilege that nothing here has.
var errLimited = errors.New("this machine cannot limit the rate of a network card")

// inspect looks at the file of a disk, so that an error can name it.
func inspect(path string) (image, error) {
	info, err := os.Stat(path)
	if err != nil {
		return image{}, err
	}
	switch {
	case info.Mode().IsRegular() && info.Size() < sectorSize:
		return image{}, fmt.Errorf("%s has %d bytes, less than one sector", path, info.Size())
	case info.Mode().IsRegular():
		return image{driver: "file", size: info.Size()}, nil
	case info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0:
		return image{driver: "host_device"}, nil
	}
	return image{}, fmt.Errorf("%s is neither a regular file nor a block device", path)
}

// diskArguments describes d to QEMU under the name id: its limits, nil for none,
// its node and the device. The file is raw whatever it contains, and never
// created, grown or punched by QEMU itself.
func diskArguments(d clhserver.Disk, id string, img image) (limits *throttleGroup, host any, dev device, err error) {
	dev, err = pciDevice("virtio-blk-pci", id, d.At)
	if err != nil {
		return nil, nil, dev, err
	}
	dev.Drive = id
	dev.Serial = d.Serial
	dev.NumQueues = 1
	node := blockdev{
		Driver: "raw", NodeName: id, ReadOnly: d.ReadOnly, Discard: "ignore",
		File: blockdevFile{
			Driver: img.driver, Filename: d.Path, ReadOnly: d.ReadOnly, Discard: "ignore",
			Locking: "auto", // shared when read-only, as Cloud Hypervisor locks
		},
	}
	if img.size%sectorSize != 0 {
		// QEMU would round up; Cloud Hypervisor cuts the last partial sector off.
		node.Size = img.size - img.size%sectorSize
	}
	if limits = limitsOf(d.Limits, id); limits == nil {
		return nil, node, dev, nil
	}
	node.NodeName = ""
	return limits, throttled{
		Driver: "throttle", NodeName: id, Group: limits.ID, ReadOnly: d.ReadOnly, Discard: "ignore", File: node,
	}, dev, nil
}

// netArguments describes n to QEMU under the name id; fds says how QEMU knows
// each tap.
func netArguments(n clhserver.Net, id string, fds []string) (netdev, device, error) {
	dev, err := pciDevice("virtio-net-pci", id, n.At)
	if err != nil {
		return netdev{}, device{}, err
	}
	if !n.Limits.None() {
		return netdev{}, device{}, errLimited
	}
	noROM := ""
	dev.ROMFile = &noROM
	dev.Netdev = id
	dev.MAC = n.MAC.String()
	host := netdev{Type: "tap", ID: id}
	switch len(fds) {
	case 0:
		return netdev{}, device{}, fmt.Errorf("network card %s has no tap", n.ID)
	case 1:
		host.FD = fds[0]
	default:
		host.FDs = strings.Join(fds, ":")
		dev.MQ = true
		dev.Vectors = 2*len(fds) + 2 // one each way, control, configuration
	}
	return host, dev, nil
}
