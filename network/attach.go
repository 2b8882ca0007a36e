package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// Attach gives every link of the namespace that has an address a tap, and
// collects what the guest has to know of it. On error nothing is left. The taps
// vanish when CloseTaps is called before a VMM has taken them; Detach removes
// them at any time.
func Attach(ctx context.Context, netnsPath string) (n *Network, err error) {
	err = within(netnsPath, func(h *netlink.Handle) error {
		n, err = attach(ctx, h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach network namespace %s: %w", netnsPath, err)
	}
	return n, nil
}

func attach(ctx context.Context, h *netlink.Handle) (_ *Network, err error) {
	links, unfit, err := addressed(h, nil)
	if err = errors.Join(err, unfit); err != nil {
		return nil, err
	}
	n := &Network{joined: map[int]string{}}
	var back undo.Stack
	defer back.OnError(ctx, &err)
	for _, l := range links {
		nic, err := n.join(ctx, h, l.link, &back)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", l.link.Attrs().Name, err)
		}
		n.NICs = append(n.NICs, nic)
	}
	return n, n.describeAll(h, links)
}

// join gives a link a tap, whose number is not used again.
func (n *Network) join(ctx context.Context, h *netlink.Handle, link netlink.Link, back *undo.Stack) (hypervisor.NIC, error) {
	number := n.next
	n.next++
	tap, err := join(ctx, h, link, tapName(number), back)
	if err != nil {
		return hypervisor.NIC{}, err
	}
	nic := hypervisor.NIC{ID: fmt.Sprintf("net%d", number), MAC: link.Attrs().HardwareAddr, Tap: tap}
	n.joined[link.Attrs().Index] = nic.ID
	return nic, nil
}

// addressedLink is a link that the guest is to take over.
type addressedLink struct {
	link      netlink.Link
	addresses []netlink.Addr
}

// addressed lists the links with an address, and those known by their index,
// sorted by name. Of those that cannot be joined to a tap unfit tells: the pod
// lacks a network it was promised.
func addressed(h *netlink.Handle, known map[int]string) (found []addressedLink, unfit, err error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK != 0 || isTap(a.Name) {
			continue
		}
		addresses, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		if _, ours := known[a.Index]; len(addresses) == 0 && !ours {
			continue
		}
		if len(a.HardwareAddr) != 6 {
			unfit = errors.Join(unfit, fmt.Errorf("link %s of type %s has no Ethernet address: %w", a.Name, l.Type(), errdefs.ErrNotImplemented))
			continue
		}
		found = append(found, addressedLink{l, addresses})
	}
	slices.SortFunc(found, func(a, b addressedLink) int { return strings.Compare(a.link.Attrs().Name, b.link.Attrs().Name) })
	return found, unfit, nil
}

// join makes a tap and the filters between it and a link.
func join(ctx context.Context, h *netlink.Handle, link netlink.Link, name string, back *undo.Stack) (*os.File, error) {
	f, err := openTap(name)
	if err != nil {
		return nil, err
	}
	back.Add(func(context.Context) error { return f.Close() }) // and with it the tap and its filter
	tap, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	if err := h.LinkSetMTU(tap, link.Attrs().MTU); err != nil {
		return nil, fmt.Errorf("set MTU of %s to %d: %w", name, link.Attrs().MTU, err)
	}
	if err := h.LinkSetUp(tap); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	if err := addIngress(ctx, h, tap); err != nil {
		return nil, err
	}
	if err := addIngress(ctx, h, link); err != nil {
		return nil, err
	}
	back.Add(func(context.Context) error { return delIngress(h, link) })
	if err := redirect(h, link, tap); err != nil {
		return nil, err
	}
	if err := redirect(h, tap, link); err != nil {
		return nil, err
	}
	return f, nil
}

// addIngress gives a link a queueing discipline for what it receives.
func addIngress(ctx context.Context, h *netlink.Handle, link netlink.Link) error {
	err := whileBusy(ctx, func() error { return h.QdiscAdd(ingress(link)) })
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s has an ingress qdisc already: joined to another machine? %w", link.Attrs().Name, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("add ingress qdisc to %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// whileBusy repeats what the kernel answers with EBUSY, as it does for a moment
// while another queueing discipline is being taken away.
func whileBusy(ctx context.Context, do func() error) error {
	var err error
	for attempt := range busyAttempts {
		if err = do(); !errors.Is(err, unix.EBUSY) {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(attempt+1) * busyPause):
		}
	}
	return err
}

func delIngress(h *netlink.Handle, link netlink.Link) error {
	err := h.QdiscDel(ingress(link))
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil // gone, by itself or with its link
	}
	return fmt.Errorf("delete ingress qdisc of %s: %w", link.Attrs().Name, err)
}

func ingress(link netlink.Link) *netlink.Ingress {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_INGRESS}}
}

// redirect hands every frame that from receives to to.
func redirect(h *netlink.Handle, from, to netlink.Link) error {
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: from.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Protocol: unix.ETH_P_ALL},
		Actions: []netlink.Action{&netlink.MirredAction{
			ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN},
			MirredAction: netlink.TCA_EGRESS_REDIR,
			Ifindex:      to.Attrs().Index,
		}},
	}
	if err := h.FilterAdd(filter); err != nil {
		return fmt.Errorf("redirect %s to %s: %w", from.Attrs().Name, to.Attrs().Name, err)
	}
	return nil
}

// Detach takes back what Attach did in the namespace, knowing no more than its
// path. It is idempotent; a namespace that is gone has nothing to take back.
func Detach(_ context.Context, netnsPath string) error {
	err := within(netnsPath, detach)
	if errors.Is(err, errNoNamespace) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("detach network namespace %s: %w", netnsPath, err)
	}
	return nil
}

func detach(h *netlink.Handle) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	other := map[int]bool{} // links that are not our taps
	for _, l := range links {
		other[l.Attrs().Index] = !isTap(l.Attrs().Name)
	}
	var errs []error
	for _, l := range links {
		if other[l.Attrs().Index] && redirects(h, l, other) {
			errs = append(errs, delIngress(h, l))
		}
	}
	for _, l := range links {
		if isTap(l.Attrs().Name) {
			if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("delete %s: %w", l.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// redirects reports whether a link has a filter of ours: one that redirects to a
// tap, or to a link that no longer exists.
func redirects(h *netlink.Handle, link netlink.Link, other map[int]bool) bool {
	filters, err := h.FilterList(link, netlink.MakeHandle(0xffff, 0))
	if err != nil {
		return false // no ingress qdisc
	}
	for _, f := range filters {
		u, ok := f.(*netlink.U32)
		if !ok {
			continue
		}
		for _, a := range u.Actions {
			if m, ok := a.(*netlink.MirredAction); ok && !other[m.Ifindex] {
				return true
			}
		}
	}
	return false
}
