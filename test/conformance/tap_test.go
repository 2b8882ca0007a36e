package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// broken are network namespaces that a pod cannot be started in, or not as they
// are. Each gives the path of one.
var broken = map[string]struct {
	make func(h *host) string
	code codes.Code // OK: the pod starts
}{
	"has no link": {func(h *host) string {
		ns := h.namespaceWithLink()
		h.ip("-n", ns, "link", "del", "eth0")
		return "/run/netns/" + ns
	}, codes.OK},
	"has no address": {func(h *host) string {
		ns := h.namespaceWithLink()
		h.ip("-n", ns, "address", "flush", "dev", "eth0")
		return "/run/netns/" + ns
	}, codes.OK},
	"is not there":   {func(h *host) string { return "/run/netns/" + h.prefix }, codes.FailedPrecondition},
	"is a file":      {func(h *host) string { return h.write("file", "") }, codes.FailedPrecondition},
	"is the host's":  {func(*host) string { return fmt.Sprintf("/proc/%d/ns/net", os.Getpid()) }, codes.InvalidArgument},
	"is not network": {func(*host) string { return fmt.Sprintf("/proc/%d/ns/uts", os.Getpid()) }, codes.InvalidArgument},
	"has a link of the tap's name": {func(h *host) string {
		ns := h.namespaceWithLink()
		h.ip("-n", ns, "link", "add", "tap0_kata", "type", "veth", "peer", "name", "peer0")
		return "/run/netns/" + ns
	}, codes.FailedPrecondition},
	"is joined to another machine": {func(h *host) string {
		ns := h.namespaceWithLink()
		h.ip("netns", "exec", ns, "tc", "qdisc", "add", "dev", "eth0", "ingress")
		return "/run/netns/" + ns
	}, codes.AlreadyExists},
	"has a link without Ethernet": {func(h *host) string {
		ns := h.namespaceWithLink()
		h.ip("-n", ns, "tuntap", "add", "tun0", "mode", "tun")
		h.ip("-n", ns, "address", "add", "198.51.100.2/24", "dev", "tun0")
		return "/run/netns/" + ns
	}, codes.Unimplemented},
}

func TestMatrixOfNetworkNamespaces(t *testing.T) {
	t.Parallel()
	for name, b := range broken {
		cell(t, "network", "namespace "+name, func(t *testing.T) {
			h := newHost(t, memory.Script{})
			l := newLife(h, netns(b.make(h)))
			l.walk(0, 0)
			l.end()
			if b.code == codes.OK {
				l.wantCodes()
				return
			}
			l.wantCodes(append([]codes.Code{b.code}, consequences...)...)
			if r := l.s.refusals(); len(r) == 0 || r[0].rpc != "Create" || r[0].code != b.code {
				t.Errorf("Create was not refused with %v: %v", b.code, r)
			}
		})
	}
}

// losses are what may happen to a pod's network while it runs.
var losses = map[string]func(h *host, ns string){
	"tap":  func(_ *host, ns string) { _ = exec.Command("ip", "-n", ns, "link", "del", "tap0_kata").Run() },
	"link": func(_ *host, ns string) { _ = exec.Command("ip", "-n", ns, "link", "del", "eth0").Run() },
	"filter": func(_ *host, ns string) {
		_ = exec.Command("ip", "netns", "exec", ns, "tc", "qdisc", "del", "dev", "eth0", "ingress").Run()
	},
	"namespace": func(_ *host, ns string) { _ = exec.Command("ip", "netns", "del", ns).Run() },
}

// A part of the pod's network is gone after some step: the pod may be without, but
// its life goes on.
func TestMatrixOfNetworkLosses(t *testing.T) {
	t.Parallel()
	for what, lose := range losses {
		for at, phase := range phases()[:len(phases())-1] {
			cell(t, "network", fmt.Sprintf("no %s after %s", what, phase), func(t *testing.T) {
				h := newHost(t, memory.Script{})
				ns := h.namespaceWithLink()
				l := newLife(h, netns("/run/netns/"+ns))
				l.walk(0, at+1)
				lose(h, ns)
				l.walk(at+1, 0)
				l.end()
				l.wantCodes()
				if what != "namespace" {
					h.wantNoTap(ns)
				}
			})
		}
	}
}

// wantNoTap checks that nothing of ours is left in a network namespace.
func (h *host) wantNoTap(ns string) {
	h.t.Helper()
	if links := h.ip("-n", ns, "-o", "link"); strings.Contains(links, "kata") {
		h.t.Errorf("left are %s", links)
	}
	if qdiscs := h.ip("netns", "exec", ns, "tc", "qdisc", "show"); strings.Contains(qdiscs, "ingress") || strings.Contains(qdiscs, "clsact") {
		h.t.Errorf("left are %s", qdiscs)
	}
}
