// Package network joins a pod's network namespace to the network interfaces of
// its virtual machine.
//
// Each link of the namespace that has an address gets a tap of its own. Two
// traffic control filters hand every frame that reaches the one to the other, so
// that the guest, which has the link's MAC address, takes the link's place. The
// link keeps its addresses; the same ones are reported for the guest to use.
//
//	peer ── eth0 ──ingress: redirect──> tap0_kata ── VMM ── guest's eth0
//	             <──redirect :ingress──
//
// A tap is not persistent: it is gone with the last descriptor on it, which the
// VMM holds after launch. The filters are gone with the tap or the link.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// Network is what a namespace gives to a machine.
type Network struct {
	// NICs are sorted by the name of their link. Their taps are open until
	// CloseTaps.
	NICs []hypervisor.NIC
	// Interfaces tells the guest how to configure each NIC, in the same order.
	Interfaces []Interface
	Routes     []Route
	Neighbors  []Neighbor

	joined map[int]string // index of a link → ID of its NIC
	next   int            // number of the next tap
}

// Interface is how the guest is to configure the NIC that has the address MAC.
type Interface struct {
	Name      string
	MAC       net.HardwareAddr
	MTU       uint32
	Addresses []netip.Prefix // address with the length of its network
	Flags     uint32         // link flags that matter to a guest: IFF_NOARP or 0
	Type      string         // kind of link as the kernel names it, such as "veth"
}

// Route is a route of the namespace's main table that the kernel did not make.
type Route struct {
	Dest    netip.Prefix // invalid: the default route
	Gateway netip.Addr   // invalid: none
	Source  netip.Addr   // invalid: none
	Device  string
	IPv6    bool
	Scope   uint32
	Flags   uint32 // such as RTNH_F_ONLINK
	MTU     uint32
}

// Neighbor is a permanent neighbour entry, or that of a default route's gateway.
type Neighbor struct {
	IP     netip.Addr
	MAC    net.HardwareAddr
	Device string
	State  int32 // such as NUD_PERMANENT
	Flags  int32
}

// CloseTaps closes the taps' descriptors. It is called once the VMM has its own;
// without a VMM the taps are gone afterwards. It may be called again.
func (n *Network) CloseTaps() error {
	var errs []error
	for i, nic := range n.NICs {
		if nic.Tap == nil {
			continue
		}
		n.NICs[i].Tap = nil
		if err := nic.Tap.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close tap of %s: %w", nic.ID, err))
		}
	}
	return errors.Join(errs...)
}
