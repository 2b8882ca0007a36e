package ocispec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// given is v, or nil where 0 stands for a number that was not given.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// NewResources converts the limits of a container; nil stays nil.
func NewResources(r *agentpb.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	resources := &specs.LinuxResources{}
	for _, d := range r.GetDevices() {
		resources.Devices = append(resources.Devices, specs.LinuxDeviceCgroup{
			Allow: d.GetAllow(), Type: d.GetType(), Access: d.GetAccess(),
			Major: deviceNumber(d.GetMajor()), Minor: deviceNumber(d.GetMinor()),
		})
	}
	if m := r.GetMemory(); m != nil {
		memory := &specs.LinuxMemory{Limit: given(m.GetLimit()), Reservation: given(m.GetReservation()), Swap: given(m.GetSwap())}
		if m.GetDisableOOMKiller() {
			memory.DisableOOMKiller = given(true)
		}
		resources.Memory = memory
	}
	if c := r.GetCPU(); c != nil {
		resources.CPU = &specs.LinuxCPU{
			Shares: given(c.GetShares()), Quota: given(c.GetQuota()), Period: given(c.GetPeriod()),
			RealtimeRuntime: given(c.GetRealtimeRuntime()), RealtimePeriod: given(c.GetRealtimePeriod()),
			Cpus: c.GetCpus(), Mems: c.GetMems(),
		}
	}
	if limit := r.GetPids().GetLimit(); limit > 0 {
		resources.Pids = &specs.LinuxPids{Limit: &limit}
	}
	resources.BlockIO = newBlockIO(r.GetBlockIO())
	for _, h := range r.GetHugepageLimits() {
		resources.HugepageLimits = append(resources.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPagesize(), Limit: h.GetLimit()})
	}
	return resources
}

// deviceNumber is a device number of a rule; -1 stands for any.
func deviceNumber(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

func newBlockIO(b *agentpb.LinuxBlockIO) *specs.LinuxBlockIO {
	if b == nil {
		return nil
	}
	io := &specs.LinuxBlockIO{Weight: given(uint16(b.GetWeight())), LeafWeight: given(uint16(b.GetLeafWeight()))}
	for _, w := range b.GetWeightDevice() {
		d := specs.LinuxWeightDevice{Weight: given(uint16(w.GetWeight())), LeafWeight: given(uint16(w.GetLeafWeight()))}
		d.Major, d.Minor = w.GetMajor(), w.GetMinor()
		io.WeightDevice = append(io.WeightDevice, d)
	}
	io.ThrottleReadBpsDevice = newThrottles(b.GetThrottleReadBpsDevice())
	io.ThrottleWriteBpsDevice = newThrottles(b.GetThrottleWriteBpsDevice())
	io.ThrottleReadIOPSDevice = newThrottles(b.GetThrottleReadIOPSDevice())
	io.ThrottleWriteIOPSDevice = newThrottles(b.GetThrottleWriteIOPSDevice())
	return io
}

func newThrottles(list []*agentpb.LinuxThrottleDevice) []specs.LinuxThrottleDevice {
	var out []specs.LinuxThrottleDevice
	for _, t := range list {
		d := specs.LinuxThrottleDevice{Rate: t.GetRate()}
		d.Major, d.Minor = t.GetMajor(), t.GetMinor()
		out = append(out, d)
	}
	return out
}
