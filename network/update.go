package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// Change is how a namespace differs from what was known of it.
type Change struct {
	// Added are the NICs of links that came. Their taps are open; it is for the
	// caller to close them once the VMM has its own.
	Added []hypervisor.NIC
	// Removed are the IDs of NICs whose link is gone.
	Removed []string
	// Interfaces are those that the guest is to configure, anew or again.
	Interfaces []Interface
	// Routes says that the routes differ, or that those of one of Interfaces are
	// lost in its configuration.
	Routes bool
	// Unjoined says which links could not be joined. The next Update tries them
	// again.
	Unjoined error
}

// Empty reports whether nothing has changed that matters to a guest.
func (c Change) Empty() bool {
	return len(c.Added)+len(c.Removed)+len(c.Interfaces) == 0 && !c.Routes
}

// Update joins the links that have come to the namespace since, forgets those
// that are gone, and describes all anew. One that cannot be joined is left out,
// and the change names it beside the others. On error n is as it was, and nothing
// is left of what was made.
//
// Link-local addresses and neighbours that come or go do not count as a change:
// the kernels on both sides find them by themselves.
func (n *Network) Update(ctx context.Context, netnsPath string) (c Change, err error) {
	err = within(netnsPath, func(h *netlink.Handle) error {
		c, err = n.update(ctx, h)
		return err
	})
	if err != nil {
		return Change{}, fmt.Errorf("update network namespace %s: %w", netnsPath, err)
	}
	return c, nil
}

func (n *Network) update(ctx context.Context, h *netlink.Handle) (c Change, err error) {
	links, err := h.LinkList()
	if err != nil {
		return c, fmt.Errorf("list links: %w", err)
	}
	now, unfit, err := addressed(h, n.joined)
	if err != nil {
		return c, err
	}
	next := &Network{joined: map[int]string{}, next: n.next}
	for index, id := range n.joined {
		if slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == index }) {
			next.joined[index] = id
		} else {
			c.Removed = append(c.Removed, id)
		}
	}
	var back undo.Stack
	defer back.OnError(ctx, &err)
	c.Unjoined = unfit
	now = slices.DeleteFunc(now, func(l addressedLink) bool {
		if _, known := next.joined[l.link.Attrs().Index]; known {
			return false
		}
		nic, failed := next.tryJoin(ctx, h, l.link, &back)
		if failed != nil {
			c.Unjoined = errors.Join(c.Unjoined, fmt.Errorf("link %s: %w", l.link.Attrs().Name, failed))
			return true
		}
		c.Added = append(c.Added, nic)
		return false
	})
	if err = next.describeAll(h, now); err != nil {
		return c, err
	}
	for _, i := range next.Interfaces {
		if !slices.ContainsFunc(n.Interfaces, i.same) {
			c.Interfaces = append(c.Interfaces, i)
		}
	}
	c.Routes = len(c.Interfaces) > 0 || !slices.Equal(n.Routes, next.Routes)
	next.NICs = slices.DeleteFunc(append(slices.Clone(n.NICs), c.Added...), func(nic hypervisor.NIC) bool { return slices.Contains(c.Removed, nic.ID) })
	*n = *next
	return c, nil
}

// tryJoin is join, of which nothing is left if it fails: not even the number, for
// it may be tried each second.
func (n *Network) tryJoin(ctx context.Context, h *netlink.Handle, link netlink.Link, back *undo.Stack) (hypervisor.NIC, error) {
	number := n.next
	var own undo.Stack
	nic, err := n.join(ctx, h, link, &own)
	if err != nil {
		n.next = number
		return nic, errors.Join(err, own.Run(context.WithoutCancel(ctx)))
	}
	back.Add(own.Run)
	return nic, nil
}

// Forget drops a NIC that the machine did not take, and with its tap's last
// descriptor the tap. The next Update tries again.
func (n *Network) Forget(netnsPath, id string) error {
	var errs []error
	n.NICs = slices.DeleteFunc(n.NICs, func(nic hypervisor.NIC) bool {
		if nic.ID != id {
			return false
		}
		if nic.Tap != nil {
			errs = append(errs, nic.Tap.Close())
		}
		n.Interfaces = slices.DeleteFunc(n.Interfaces, func(i Interface) bool { return bytes.Equal(i.MAC, nic.MAC) })
		return true
	})
	for index, joined := range n.joined {
		if joined != id {
			continue
		}
		delete(n.joined, index)
		errs = append(errs, within(netnsPath, func(h *netlink.Handle) error {
			link, err := h.LinkByIndex(index)
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("look up link %d: %w", index, err)
			}
			return delIngress(h, link)
		}))
	}
	return errors.Join(errs...)
}

// same reports whether a guest that has i needs nothing to have o.
func (i Interface) same(o Interface) bool {
	lasting := func(all []netip.Prefix) []netip.Prefix {
		kept := slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() })
		slices.SortFunc(kept, netip.Prefix.Compare)
		return kept
	}
	return i.Name == o.Name && bytes.Equal(i.MAC, o.MAC) && i.MTU == o.MTU && i.Flags == o.Flags && i.Type == o.Type &&
		slices.Equal(lasting(i.Addresses), lasting(o.Addresses))
}
