package qemu

import (
	"math/bits"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// throttleGroup is QEMU's object that limits the rate of a disk.
type throttleGroup struct {
	Type   string         `json:"qom-type"`
	ID     string         `json:"id"`
	Limits throttleLimits `json:"limits"`
}

// throttleLimits are of a leaky bucket: so much may pass a second on average, and
// up to max of it at once. Source: QEMU's docs/throttle.txt.
type throttleLimits struct {
	Bytes    uint64 `json:"bps-total,omitempty"`
	BytesMax uint64 `json:"bps-total-max,omitempty"`
	Ops      uint64 `json:"iops-total,omitempty"`
	OpsMax   uint64 `json:"iops-total-max,omitempty"`
}

// throttled is the node of a disk whose rate is limited, on top of its other.
type throttled struct {
	Driver       string   `json:"driver"`
	NodeName     string   `json:"node-name"`
	Group        string   `json:"throttle-group"`
	ReadOnly     bool     `json:"read-only"`
	AutoReadOnly bool     `json:"auto-read-only"`
	Discard      string   `json:"discard"`
	File         blockdev `json:"file"`
}

// groupName is QEMU's name of the limits of the disk that it knows by name.
func groupName(name string) string { return name + "-limits" }

// limitsOf is nil for no limit.
func limitsOf(l clhserver.Limits, name string) *throttleGroup {
	var t throttleLimits
	t.Bytes, t.BytesMax = leaky(l.Bandwidth)
	t.Ops, t.OpsMax = leaky(l.Ops)
	if t == (throttleLimits{}) {
		return nil
	}
	return &throttleGroup{Type: "throttle-group", ID: groupName(name), Limits: t}
}

// maxRate is the highest that QEMU takes. Nothing comes near.
const maxRate = 1_000_000_000_000_000

// leaky turns a bucket of tokens into QEMU's. The rate is the same, at least 1 a
// second, since 0 is no limit. What may pass at once is what the bucket holds and
// what it is given once, which comes again here when the disk has rested. QEMU
// wants it to be at least the rate.
func leaky(b clhserver.Bucket) (rate, atOnce uint64) {
	if !b.Limits() {
		return 0, 0
	}
	high, low := bits.Mul64(b.Size, uint64(time.Second))
	rate = maxRate
	if refill := uint64(b.Refill); high < refill {
		rate, _ = bits.Div64(high, low, refill)
	}
	rate = min(max(rate, 1), maxRate)
	sum, carry := bits.Add64(b.Size, b.Once, 0)
	if carry != 0 {
		sum = maxRate
	}
	return rate, min(max(sum, rate), maxRate)
}
