// Package hypervisor is the contract between a sandbox and the machine it runs
// in: what a virtual machine can do, in words that name no VMM.
//
// Life of a machine:
//
//	Launcher.Launch ──> created ──Boot──> running ──Stop──> gone
//	                       └────────Stop / VMM died──────────┘
//
// Launch starts the VMM's process and describes the machine to it. From then on
// the caller owns the machine and must Stop it, whatever else fails. A machine
// is booted once and never restarted: a guest that reboots is a machine that
// died, because every container in it is lost.
package hypervisor

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// ErrGone says that the machine no longer exists; to a teardown it is success.
var ErrGone = fmt.Errorf("virtual machine is gone: %w", errdefs.ErrUnavailable)

// VM is one virtual machine: booted once, stopped once, watched by any number
// of callers, safe for concurrent use. Once it has died every method but Stop,
// Wait, Process and Console fails with ErrGone.
type VM interface {
	// Boot starts the guest and returns once its virtual processors run. The
	// agent may be dialled from then on; it need not listen yet.
	Boot(ctx context.Context) error
	// Room fails with class ResourceExhausted, and tells both numbers, unless
	// all of the disks could be plugged now.
	Room(disks []Disk) error
	// HotplugDisk attaches d and says where the guest will find it. It is all
	// or nothing: on error the disk is not attached, nor will it be later.
	HotplugDisk(ctx context.Context, d Disk) (BDF, error)
	// UnplugDisk detaches the disk that was plugged under id and returns when
	// the guest has let go of it. No such disk: nil.
	UnplugDisk(ctx context.Context, id string) error
	// ResizeDisk gives the disk that was plugged under id, and the file behind it,
	// so many bytes; a block device of the host must have them already. The guest
	// is told, and has not seen it when ResizeDisk returns.
	ResizeDisk(ctx context.Context, id string, size uint64) error
	// HotplugNIC attaches n, all or nothing. The tap stays the caller's, to close
	// once HotplugNIC has returned.
	HotplugNIC(ctx context.Context, n NIC) error
	// UnplugNIC detaches a NIC of Spec or HotplugNIC and returns when the guest has
	// let go of it. No such NIC: nil.
	UnplugNIC(ctx context.Context, id string) error
	// Resize makes a running machine that size and tells the size it then has, as far
	// as it is known also on error. Memory only grows, in whole blocks; processors are
	// taken away if the guest lets them go. More than Spec allows or the VMM can give
	// is of class ResourceExhausted. The guest has to bring online what is added.
	Resize(ctx context.Context, want Size) (Size, error)
	// Dial opens one stream to a vsock port of the guest (hybrid vsock). A guest
	// that does not listen (yet) refuses; the caller retries.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Stop ends the machine and removes what it left on the host: process,
	// sockets, directory. Idempotent; it escalates to SIGKILL and is bounded.
	Stop(ctx context.Context) error
	// Wait blocks until the VMM's process has ended, however it ended, and may
	// be called by many. It returns the context's error if ctx ends first.
	Wait(ctx context.Context) (Exit, error)
	// Process identifies the VMM on the host, for the state on disk and as the
	// pid that containerd is told for every task.
	Process() Process
	// Console returns the last lines the guest printed (at most 64 KiB).
	Console() string
}

// Launcher makes machines. It is what a sandbox is given by main.
type Launcher interface {
	// Launch starts a VMM and describes the machine of spec to it. On error
	// nothing is left: no process, no socket, no directory.
	Launch(ctx context.Context, spec Spec) (VM, error)
}

// Spec describes a machine before it boots. It owns nothing: the files in NICs
// stay the caller's, who may close them once Launch has returned.
type Spec struct {
	ID    string // sandbox id; names the machine's directory
	NetNS string // path of the network namespace to launch the VMM in; empty: the caller's
	// Cgroup lists the directories of the cgroup to start the VMM in, one for each
	// hierarchy; empty: the caller's. A kernel before 5.7 cannot start it in one of
	// version 2: it is the caller's to move it there.
	Cgroup       []string
	VCPUs        uint32
	MemoryMiB    uint64
	MaxVCPUs     uint32 // what Resize may give; 0: VCPUs
	MaxMemoryMiB uint64 // what Resize may give; 0: MemoryMiB
	Hugepages    bool
	Kernel       string // path of the guest's kernel; empty where Confidential says what is booted
	Initrd       string // path of the initial ramdisk; empty: none
	Image        string // path of the root disk; empty: none
	KernelParams string // added to what the driver itself puts on the command line
	NICs         []NIC
	DiskRate     Rate // of each disk
	NICRate      Rate // of each network interface
	Debug        bool // verbose VMM and guest kernel

	// Confidential, if not nil, is what a machine with memory protected from this
	// host is launched from. Launch fails unless the VMM confirms it.
	Confidential *Confidential
}

// Size is the size of a machine.
type Size struct {
	VCPUs     uint32
	MemoryMiB uint64
}

// Confidential is a machine whose memory the host cannot read (SEV-SNP). What it
// boots is in one file, command line included, and measured.
type Confidential struct {
	IGVM     string // path of the launch image
	HostData string // 64 hexadecimal digits, which the attestation report shows
}

// Rate limits a device; zero is no limit. A burst is given once, at the start.
type Rate struct {
	Bytes, BytesBurst uint64 // per second; once
	Ops, OpsBurst     uint64 // per second; once
}

// NIC is a network interface of the guest, backed by a tap on the host.
type NIC struct {
	ID  string // unique among all devices of the machine, never starting with "__"
	MAC net.HardwareAddr
	Tap *os.File // open tap (IFF_TAP|IFF_NO_PI|IFF_VNET_HDR), one queue pair
}

// Disk is a block device to hot-plug.
type Disk struct {
	// ID names the device, at most 63 bytes, never starting with "__" or "_";
	// an id is not used again in the life of a machine.
	ID       string
	Path     string // raw file or block device on the host
	ReadOnly bool
	Serial   string // what the guest reads as serial number, at most 20 bytes
	RootBus  bool   // plug it on the root bus of segment 0, where some agents look only
}

// Exit tells how a VMM ended.
type Exit struct {
	At     time.Time
	Kind   ExitKind
	Reason string // for people: "exit status 0", "signal: killed", "guest rebooted"
}

// ExitKind is what ended a machine.
type ExitKind string

// The ends of machines.
const (
	ExitStopped     ExitKind = "stopped"      // Stop was called
	ExitGuestOff    ExitKind = "guest off"    // the guest powered itself off
	ExitGuestReboot ExitKind = "guest reboot" // which is the end: its containers are lost
	ExitGuestPanic  ExitKind = "guest panic"  // its kernel panicked
	ExitVMM         ExitKind = "VMM"          // it ended by itself, whatever its exit status
	ExitFilter      ExitKind = "filter"       // its system call filter killed it
	ExitKilled      ExitKind = "killed"       // by any other signal
)

// Process identifies a process on this host beyond the reuse of its pid.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks after boot: field 22 of /proc/PID/stat
}
