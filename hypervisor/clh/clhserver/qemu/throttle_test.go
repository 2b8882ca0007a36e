package qemu

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

func TestLeakyBucket(t *testing.T) {
	for name, c := range map[string]struct {
		bucket       clhserver.Bucket
		rate, atOnce uint64
	}{
		"none":                    {},
		"never filled":            {clhserver.Bucket{Size: 5, Once: 5}, 0, 0},
		"holds nothing":           {clhserver.Bucket{Once: 5, Refill: time.Second}, 0, 0},
		"a second's":              {clhserver.Bucket{Size: 1000, Refill: time.Second}, 1000, 1000},
		"and once more":           {clhserver.Bucket{Size: 1000, Once: 500, Refill: time.Second}, 1000, 1500},
		"ten seconds'":            {clhserver.Bucket{Size: 1000, Refill: 10 * time.Second}, 100, 1000},
		"a tenth's, not less":     {clhserver.Bucket{Size: 100, Refill: 100 * time.Millisecond}, 1000, 1000},
		"less than one a second":  {clhserver.Bucket{Size: 1, Refill: time.Hour}, 1, 1},
		"more than can be":        {clhserver.Bucket{Size: math.MaxUint64, Once: 1, Refill: time.Millisecond}, maxRate, maxRate},
		"as much for a long time": {clhserver.Bucket{Size: math.MaxUint64, Refill: math.MaxInt64}, 2_000_000_000, maxRate},
	} {
		if rate, atOnce := leaky(c.bucket); rate != c.rate || atOnce != c.atOnce {
			t.Errorf("%s: %d a second and %d at once, want %d and %d", name, rate, atOnce, c.rate, c.atOnce)
		}
	}
}

func TestLimitedNetworkCardIsRefused(t *testing.T) {
	limited := clhserver.Net{ID: "eth0", At: at(2), Limits: clhserver.Limits{Ops: clhserver.Bucket{Size: 1, Refill: 1}}}
	if _, _, err := netArguments(limited, "net0", []string{"5"}); !errors.Is(err, errLimited) {
		t.Errorf("error %v, want %v", err, errLimited)
	}
	limited.Limits.Ops.Refill = 0
	if _, _, err := netArguments(limited, "net0", []string{"5"}); err != nil {
		t.Errorf("limits that are none: %v", err)
	}
}

// limits of a disk's rate that a test does not notice.
func limits() clhserver.Limits {
	return clhserver.Limits{
		Bandwidth: clhserver.Bucket{Size: 1 << 30, Once: 1 << 20, Refill: time.Second},
		Ops:       clhserver.Bucket{Size: 10_000, Refill: 500 * time.Millisecond},
	}
}

// wantLimits checks what QEMU says of the disks that it limits: each is as limits
// says, and there are so many.
func (g *guest) wantLimits(n int) {
	g.t.Helper()
	ctx := g.t.Context()
	var objects []struct {
		Name string `json:"name"`
	}
	if err := g.backend.machine.run(ctx, "qom-list", map[string]string{"path": "/objects"}, &objects); err != nil {
		g.t.Fatal(err)
	}
	found := 0
	for _, o := range objects {
		if !strings.HasSuffix(o.Name, groupName("")) {
			continue
		}
		found++
		var got throttleLimits
		err := g.backend.machine.run(ctx, "qom-get", map[string]string{"path": "/objects/" + o.Name, "property": "limits"}, &got)
		if want := (throttleLimits{Bytes: 1 << 30, BytesMax: 1<<30 + 1<<20, Ops: 20_000, OpsMax: 20_000}); err != nil || got != want {
			g.t.Errorf("%s: %+v, %v, want %+v", o.Name, got, err, want)
		}
	}
	if found != n {
		g.t.Errorf("%d disks are limited, want %d: %v", found, n, objects)
	}
}
