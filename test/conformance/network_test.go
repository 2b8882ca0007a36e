package conformance

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// namespaceWithLink makes a network namespace with one link that has an address,
// and returns its name.
func (h *host) namespaceWithLink() string {
	h.t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		h.t.Skip("needs ip (iproute2)")
	}
	name := h.prefix
	h.ip("netns", "add", name)
	h.t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	h.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
	h.ip("-n", name, "address", "add", "192.0.2.2/24", "dev", "eth0")
	h.ip("-n", name, "link", "set", "eth0", "up")
	h.ip("-n", name, "route", "add", "default", "via", "192.0.2.1")
	return name
}

func (h *host) ip(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

func TestPodHasItsNetwork(t *testing.T) {
	for _, end := range []string{"in good order", "by delete"} {
		t.Run(end, func(t *testing.T) {
			h := newHost(t, memory.Script{})
			name := h.namespaceWithLink()
			s := h.runningPod(netns("/run/netns/" + name))
			if links := h.ip("-n", name, "-o", "link"); !strings.Contains(links, "tap0_kata") {
				t.Errorf("links are %s", links)
			}
			var seen []string
			for _, c := range s.agent.Calls() {
				switch r := c.Request.(type) {
				case *agentpb.UpdateInterfaceRequest:
					seen = append(seen, r.Interface.Name, r.Interface.IPAddresses[0].Address, r.Interface.IPAddresses[0].Mask)
				case *agentpb.UpdateRoutesRequest:
					for _, route := range r.Routes.Routes {
						if route.Dest == "" {
							seen = append(seen, "via "+route.Gateway)
						}
					}
				}
			}
			if got := strings.Join(seen, " "); got != "eth0 192.0.2.2 24 via 192.0.2.1" {
				t.Errorf("the guest was told %q", got)
			}
			if end == "in good order" {
				s.finish(s.id)
			} else {
				killShim(h, s)
				h.delete(s.id)
			}
			if links := h.ip("-n", name, "-o", "link"); strings.Contains(links, "kata") {
				t.Errorf("left are %s", links)
			}
			if qdiscs := h.ip("netns", "exec", name, "tc", "qdisc", "show", "dev", "eth0"); strings.Contains(qdiscs, "ingress") || strings.Contains(qdiscs, "clsact") {
				t.Errorf("left are %s", qdiscs)
			}
		})
	}
}

// Generated policies refuse neighbours, and a gateway becomes one at any time:
// the pod goes without.
func TestNeighborsThatAreRefusedDoNotStopAPod(t *testing.T) {
	for name, refusal := range map[string]error{
		"by policy":        status.Error(codes.PermissionDenied, `"AddARPNeighborsRequest is blocked by policy: "`),
		"by an old agent":  status.Error(codes.Unimplemented, "AddARPNeighbors"),
		"by a broken link": status.Error(codes.Internal, "no such device"),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.Script{})
			ns := h.namespaceWithLink()
			h.ip("-n", ns, "neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
			s := h.pod("pod", netns("/run/netns/"+ns))
			s.agent.Fail("AddARPNeighbors", 1, refusal)
			if name == "by a broken link" {
				if err := s.tryCreate(t.Context(), s.id, streams{}, h.layer("pause")); err == nil || !strings.Contains(err.Error(), "no such device") {
					t.Errorf("Create answered %v", err)
				}
				s.giveUp()
				return
			}
			s.create(s.id, streams{}, h.layer("pause"))
			s.run(s.id, "")
			if !slices.Contains(s.agent.Names(), "AddARPNeighbors") {
				t.Error("no neighbours were sent")
			}
			s.finish(s.id)
		})
	}
}

// A hook or a second CNI plugin may add a link to a pod that runs, give one
// another address, or take one away.
func TestLinksComeAndGoWhileThePodRuns(t *testing.T) {
	h := newHost(t, memory.Script{})
	ns := h.namespaceWithLink()
	s := h.runningPod(netns("/run/netns/" + ns))
	told := func(want string) func() bool {
		return func() bool {
			calls := s.agent.Calls()
			last := slices.IndexFunc(calls, func(c agenttest.Call) bool {
				r, ok := c.Request.(*agentpb.UpdateInterfaceRequest)
				if !ok {
					return false
				}
				text := r.Interface.Name
				for _, a := range r.Interface.IPAddresses {
					if a.Family == agentpb.IPFamily_v4 {
						text += " " + a.Address
					}
				}
				return text == want
			})
			return last >= 0 && slices.ContainsFunc(calls[last:], func(c agenttest.Call) bool { return c.RPC == "UpdateRoutes" })
		}
	}
	nics := func(want ...string) func() bool {
		return func() bool { return slices.Equal(h.nics(s.id), want) }
	}

	h.ip("link", "add", "far"+ns[len(ns)-6:], "type", "veth", "peer", "name", "net1", "netns", ns)
	h.ip("-n", ns, "address", "add", "198.51.100.2/24", "dev", "net1")
	h.ip("-n", ns, "link", "set", "net1", "up")
	h.eventually("the guest has the new link's address", told("net1 198.51.100.2"))
	h.eventually("the machine has two cards", nics("net0", "net1"))
	h.ip("-n", ns, "address", "add", "192.0.2.3/24", "dev", "eth0")
	h.eventually("the guest has both addresses", told("eth0 192.0.2.2 192.0.2.3"))
	h.ip("-n", ns, "link", "del", "net1")
	h.eventually("the machine has one card", nics("net0"))
	h.eventually("the tap is gone", func() bool { return !strings.Contains(h.ip("-n", ns, "-o", "link"), "tap1_kata") })
	s.finish(s.id)
}

// A card that the VMM does not take is tried again, and costs the pod nothing.
func TestLinkThatTheMachineDoesNotTake(t *testing.T) {
	h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.add-net", Call: 2, Do: "fail"}}})
	ns := h.namespaceWithLink()
	s := h.runningPod(netns("/run/netns/" + ns))
	h.ip("link", "add", "far"+ns[len(ns)-6:], "type", "veth", "peer", "name", "net1", "netns", ns)
	h.ip("-n", ns, "address", "add", "198.51.100.2/24", "dev", "net1")
	h.eventually("the machine has the card after all", func() bool { return slices.Equal(h.nics(s.id), []string{"net0", "net2"}) })
	if log := s.log(); !strings.Contains(log, "put NIC net1 into the machine") {
		t.Error("nothing was said of the first attempt")
	}
	s.finish(s.id)
}

// A card that the VMM does not give back when its link is gone is asked for again.
func TestCardThatTheMachineKeeps(t *testing.T) {
	h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.remove-device", Call: 1, Do: "fail"}}})
	ns := h.namespaceWithLink()
	s := h.runningPod(netns("/run/netns/" + ns))
	h.ip("link", "add", "far"+ns[len(ns)-6:], "type", "veth", "peer", "name", "net1", "netns", ns)
	h.ip("-n", ns, "address", "add", "198.51.100.2/24", "dev", "net1")
	h.eventually("the machine has the card", func() bool { return slices.Equal(h.nics(s.id), []string{"net0", "net1"}) })
	h.ip("-n", ns, "link", "del", "net1")
	h.eventually("the machine has given it back after all", func() bool { return slices.Equal(h.nics(s.id), []string{"net0"}) })
	if log := s.log(); !strings.Contains(log, "take NIC net1 out of the machine") {
		t.Error("nothing was said of the first attempt")
	}
	s.finish(s.id)
}

// One that it never gives back is left there after a while, and asked for again
// when the links change. The pod ends as any other.
func TestCardThatTheMachineKeepsForLong(t *testing.T) {
	var faults []memory.Fault
	for call := range 3 {
		faults = append(faults, memory.Fault{Endpoint: "vm.remove-device", Call: call + 1, Do: "fail"})
	}
	h := newHost(t, memory.Script{Faults: faults})
	ns := h.namespaceWithLink()
	s := h.runningPod(netns("/run/netns/" + ns))
	h.ip("link", "add", "far"+ns[len(ns)-6:], "type", "veth", "peer", "name", "net1", "netns", ns)
	h.ip("-n", ns, "address", "add", "198.51.100.2/24", "dev", "net1")
	h.eventually("the machine has the card", func() bool { return slices.Equal(h.nics(s.id), []string{"net0", "net1"}) })
	h.ip("-n", ns, "link", "del", "net1")
	h.eventually("it is left there", func() bool { return strings.Contains(s.log(), "take NIC net1 out of the machine, where it stays") })
	h.ip("-n", ns, "address", "add", "192.0.2.3/24", "dev", "eth0")
	h.eventually("the machine has given it back after all", func() bool { return slices.Equal(h.nics(s.id), []string{"net0"}) })
	s.finish(s.id)
}

// Two links that come in one go are two cards, neither of which is tried twice.
func TestTwoLinksAtOnce(t *testing.T) {
	h := newHost(t, memory.Script{})
	ns := h.namespaceWithLink()
	s := h.runningPod(netns("/run/netns/" + ns))
	end := ns[len(ns)-6:]
	h.ip("link", "add", "fara"+end, "type", "veth", "peer", "name", "net1", "netns", ns)
	h.ip("link", "add", "farb"+end, "type", "veth", "peer", "name", "net2", "netns", ns)
	batch := h.write("addresses", "address add 198.51.100.2/24 dev net1\naddress add 203.0.113.2/24 dev net2\n")
	h.ip("-n", ns, "-batch", batch)
	h.eventually("the machine has both cards", func() bool { return len(h.nics(s.id)) == 3 })
	if got := h.nics(s.id); !slices.Equal(got, []string{"net0", "net1", "net2"}) {
		t.Errorf("cards %v", got)
	}
	if log := s.log(); strings.Contains(log, "follow the pod's links") {
		t.Error("an attempt failed")
	}
	s.finish(s.id)
}
