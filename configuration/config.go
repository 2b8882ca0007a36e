// Package configuration reads configuration.toml, its drop-ins and the
// annotations of a pod into one checked value.
//
// The file has the tables and key names of Kata Containers, as far as they mean
// something here. A key that is unknown is refused with its line and the nearest
// known name; a known one that has no meaning here is reported as a warning, or
// refused where leaving it out would weaken or break what the operator asked for.
package configuration

import (
	"regexp"
	"strings"
	"time"
)

// Config is one checked configuration. It is not changed after Load.
type Config struct {
	// Path is the file it was read from, with symbolic links resolved.
	Path string
	// DropIns are the files that were read over it, in order.
	DropIns []string
	// Warnings are for the log: keys that were given but mean nothing here.
	Warnings []string

	Hypervisor Hypervisor
	Agent      Agent
	Runtime    Runtime

	hostCPUs      int
	hostMemoryMiB uint64
	initrdBytes   int64            // of the initial ramdisk
	enabled       []*regexp.Regexp // annotations that pods may use, anchored
}

// Hypervisor is the table [hypervisor.clh].
type Hypervisor struct {
	Path                string   // VMM, absolute
	Confidential        bool     // protected memory (SEV-SNP), launched from IGVM
	IGVM                string   // absolute; empty unless Confidential
	Kernel              string   // absolute; empty if Confidential
	Initrd              string   // absolute; empty: the kernel mounts Image
	Image               string   // absolute; empty: Initrd is the whole guest
	KernelParams        string   // added last to the guest's command line
	DefaultVCPUs        float64  // of every machine, before the workload's
	DefaultMaxVCPUs     uint32   // 0: no limit of its own
	DefaultMemoryMiB    uint64   // of every machine, before the workload's
	DefaultMaxMemoryMiB uint64   // what a machine can grow to; 0: the host's
	Hugepages           bool     // the machine's memory is of huge pages
	DiskRate            Rate     // of each disk
	NICRate             Rate     // of each network interface
	Debug               bool     // console of the guest and log of the VMM are kept
	DisableSeccomp      bool     // run the VMM without its own system call filter
	EnableAnnotations   []string // regular expressions over whole names
}

// Rate limits a device; zero is no limit. A burst is given once, at the start.
type Rate struct {
	Bytes, BytesBurst uint64 // per second; once
	Ops, OpsBurst     uint64 // per second; once
}

// Agent is the table [agent.kata].
type Agent struct {
	Debug         bool
	DebugConsole  bool          // root shell on a vsock port for who is root on the host
	DialTimeout   time.Duration // whole time for the agent to answer after boot
	KernelModules []string      // each a name and parameters, separated by blanks
}

// Runtime is the table [runtime].
type Runtime struct {
	Debug                  bool
	Network                NetworkModel
	DisableGuestSeccomp    bool
	OCIVersion             string  // told to the guest; empty: the shim's default
	StaticSizing           bool    // a machine keeps the size it boots with
	DefaultWorkloadMiB     uint64  // for a pod without a memory limit
	DefaultWorkloadVCPUs   float64 // for a pod without a CPU limit
	CreateContainerTimeout time.Duration
	AllowMissingPolicy     bool // machines with protected memory for pods without a policy too
}

// NetworkModel says how a machine is joined to the pod's network namespace.
type NetworkModel string

// The network models.
const (
	TCFilter  NetworkModel = "tcfilter" // traffic control filters between link and tap
	NoNetwork NetworkModel = "none"     // the guest has no network
)

// DebugConsolePort is the vsock port of the guest's debug console.
const DebugConsolePort = 1026

// KernelParams is what the configuration adds to the guest's command line.
// A launch image has its own, to which nothing can be added.
func (c *Config) KernelParams() string {
	if c.Hypervisor.Confidential {
		return ""
	}
	var params []string
	if c.Agent.Debug {
		params = append(params, "agent.log=debug")
	}
	if c.Agent.DebugConsole {
		params = append(params, "agent.debug_console", "agent.debug_console_vport=1026")
	}
	if c.Hypervisor.KernelParams != "" {
		params = append(params, c.Hypervisor.KernelParams)
	}
	return strings.Join(params, " ")
}
