package clhserver

import (
	"context"
	"io"
	"net"
	"os"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// Backend is the machine behind the API. The server decides everything that a
// client of Cloud Hypervisor can see: states, ids, slots, validation, status
// codes, order of calls. The backend only carries out; no two of its methods
// run at once, except Close.
type Backend interface {
	// Features are what vmm.ping lists, such as "kvm".
	Features() []string
	// MaxSegments is how many PCI segments a machine can have.
	MaxSegments() int
	// ReservedSlots lists the device numbers of segment 0 that a machine of so
	// many segments itself takes, the host bridge's 0 aside.
	ReservedSlots(segments int) []uint8
	// Address is where the guest finds what the API server put at a slot: at the
	// slot itself, unless the machine stands for a segment by something else.
	Address(at hypervisor.BDF) hypervisor.BDF
	// Boot builds m and starts its processors. On error nothing of it is left.
	Boot(ctx context.Context, m Machine) error
	// AddDisk hot-plugs d at d.At into the running machine. All or nothing.
	AddDisk(ctx context.Context, d Disk) error
	// ResizeDisk gives the image of a disk so many bytes and tells the guest. A
	// block device has them already.
	ResizeDisk(ctx context.Context, id string, size uint64) error
	// AddNet hot-plugs n at n.At. Here as in Boot the taps are the backend's to
	// close, whether it fails or not.
	AddNet(ctx context.Context, n Net) error
	// RemoveDevice asks the guest to let go of a device and returns at once;
	// Events.DeviceRemoved follows when it has.
	RemoveDevice(ctx context.Context, id string) error
	// SetVCPUs gives the machine so many processors, or takes them away. It fails with
	// ErrPending while the guest has not let go of those taken away before.
	SetVCPUs(ctx context.Context, n int) error
	// AddMemory gives the running machine so many bytes more. All or nothing.
	AddMemory(ctx context.Context, bytes uint64) error
	// PowerButton presses the ACPI power button.
	PowerButton(ctx context.Context) error
	// Pause and Resume stop and start the processors.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Shutdown ends the running machine and gives everything of it back.
	Shutdown(ctx context.Context) error
	// Close ends the machine if there is one and everything the backend started.
	// It may be called at any time and more than once.
	Close() error
}

// Events is how a backend tells what happens by itself. The methods do not
// block and may be called from any goroutine.
type Events interface {
	// Activated: the guest's driver took the device into use. A backend that
	// cannot tell calls it once the device is plugged: clients of versions
	// before 53 wait for it before they plug the next one.
	Activated(id string)
	DeviceRemoved(id string) // the guest let go of it; its slot is free again
	PoweredOff()             // the guest powered itself off
	Rebooted()               // the guest reset itself
	Panicked()               // the guest's kernel panicked (pvpanic)
	Died(err error)          // the machine ended without being asked
}

// NewBackend makes a backend that reports to e.
type NewBackend func(e Events) (Backend, error)

// Machine is a VmConfig that passed validation, every device named and placed.
type Machine struct {
	Segments int // PCI segments, of which each has one bus
	VCPUs    int
	MaxVCPUs int    // what SetVCPUs may ask for
	Memory   uint64 // bytes
	// HotplugMemory is how many bytes AddMemory may add in all, in MemorySlots calls
	// and by whole MemoryBlocks.
	HotplugMemory uint64
	Hugepages     bool
	Kernel        string // bzImage or PVH ELF
	Initramfs     string
	Cmdline       string
	IGVM          string // launch image of a protected machine, in place of the three before
	HostData      string // hexadecimal, what the guest is measured with besides
	Disks         []Disk
	Nets          []Net
	Vsock         *Vsock
	Serial        Console // ttyS0
	Virtio        Console // hvc0
	RNG           *RNG
}

// Disk is a raw image or block device. At, as in every device, is the slot that
// the API server chose.
type Disk struct {
	ID       string
	Path     string
	ReadOnly bool
	Serial   string
	Limits   Limits // a backend that cannot keep to them refuses
	At       hypervisor.BDF
}

// Net is a virtio network card on taps, one per queue pair.
type Net struct {
	ID   string
	MAC  net.HardwareAddr
	Taps []*os.File
	// Limits are of its rate; a backend that cannot keep to them refuses.
	Limits Limits
	At     hypervisor.BDF
}

// Limits are of the rate of a device.
type Limits struct {
	Bandwidth Bucket // of bytes
	Ops       Bucket // of requests, or packets
}

// None says that there are no limits.
func (l Limits) None() bool { return !l.Bandwidth.Limits() && !l.Ops.Limits() }

// Bucket is one of tokens: it holds Size of them, and is filled by as many evenly
// in Refill. Once are spent before those, and do not come again.
type Bucket struct {
	Size, Once uint64
	Refill     time.Duration
}

// Limits says whether the bucket is any limit: one that holds nothing or is never
// filled is none, as in the original.
func (b Bucket) Limits() bool { return b.Size != 0 && b.Refill > 0 }

// Vsock is the hybrid vsock device: the host reaches a guest's port through the
// Unix socket at Socket, by the line "CONNECT <port>".
type Vsock struct {
	ID     string
	CID    uint32
	Socket string
	At     hypervisor.BDF
}

// RNG is the entropy device.
type RNG struct {
	Source string
	At     hypervisor.BDF
}

// Console says where a console's output goes. Out is nil for a console that is
// off; a console without a reader has io.Discard.
type Console struct {
	Out io.Writer
	At  hypervisor.BDF // of the virtio console
}
