package sandbox

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/kata-cc/kata-cc/network"
)

func TestPodAddresses(t *testing.T) {
	n := &network.Network{
		Interfaces: []network.Interface{
			{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.7/24"), netip.MustParsePrefix("fe80::1/64")}},
			{Name: "eth1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.7/24"), netip.MustParsePrefix("2001:db8::7/64")}},
			{Name: "eth2", Addresses: []netip.Prefix{netip.MustParsePrefix("169.254.3.4/16")}},
		},
		Routes: []network.Route{{Device: "eth0", Dest: netip.MustParsePrefix("10.9.0.0/16")}, {Device: "eth1", Gateway: netip.MustParseAddr("10.2.0.1")}},
	}
	want := []netip.Addr{netip.MustParseAddr("10.2.0.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("10.1.0.7")}
	if got := podAddresses(n); !slices.Equal(got, want) {
		t.Errorf("pod's addresses %v, want %v", got, want)
	}
}
