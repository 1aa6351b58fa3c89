package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Bridge is a switch on the host, and the host's own place at it: with an address it is the containers' gateway.
type Bridge struct {
	Name, Owner string
	Addresses   []netip.Prefix // 172.18.0.1/16: the host's address, and how large the subnet is
	MTU         int            // 0 leaves the kernel's, 1500
}

// Make makes the bridge, or brings one that is there to this state. Whatever fails, nothing is left that was not there before.
func (b Bridge) Make(ctx context.Context) (err error) {
	h, err := socket()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := owned(h, b.Name, b.Owner, "bridge")
	if err != nil {
		return err
	}
	if link == nil {
		if link, err = b.create(ctx, h); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, remove(trace.Off(context.WithoutCancel(ctx)), h, b.Name, b.Owner, "bridge"))
			}
		}()
	}
	if link.Attrs().Alias != b.Owner {
		if err := setAlias(ctx, h, link, b.Owner); err != nil {
			return err
		}
	}
	if err := b.harden(ctx); err != nil {
		return err
	}
	addresses := b.Addresses
	if b.v6() {
		// To look for a neighbour the kernel speaks from the link-local address, and stays silent while there is none. The one that
		// it makes itself is ready some time after the first container is: nobody would be reached in between.
		addresses = append(slices.Clone(addresses), netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1}), 64))
	}
	for _, p := range addresses {
		if err := address(ctx, h, link, p); err != nil {
			return err
		}
	}
	if err := listening(ctx, addresses); err != nil {
		return err
	}
	return up(ctx, h, link) // the last step: a bridge of ours that is up is whole
}

func (b Bridge) v6() bool {
	return slices.ContainsFunc(b.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

func (b Bridge) create(ctx context.Context, h *netlink.Handle) (netlink.Link, error) {
	link := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	link.Name, link.Group, link.MTU = b.Name, group, b.MTU
	if len(b.Addresses) > 0 {
		// Left to itself a bridge takes the lowest hardware address among its ports, and so another one with each container
		// that comes or goes, while the others keep the old one in their caches.
		link.HardwareAddr = MAC(b.Addresses[0].Addr())
	}
	err := message(ctx,
		func() string { return fmt.Sprintf("sendto(RTM_NEWLINK: ip link add %q type %q)", b.Name, "bridge") },
		func() error { return h.LinkAdd(link) })
	if errors.Is(err, unix.EEXIST) { // somebody was faster, perhaps ourselves
		if there, err := owned(h, b.Name, b.Owner, "bridge"); there != nil || err != nil {
			return there, err
		}
	}
	if err != nil {
		return nil, &Error{"create bridge", b.Name, err}
	}
	return link, nil
}

// harden sets what the kernel is to believe of the packets that come from the bridge. It comes before the bridge is up.
func (b Bridge) harden(ctx context.Context) error {
	// A published port of 127.0.0.1 is a packet from 127.0.0.1 that is sent to a container, and its answer comes back to
	// there. The kernel drops such packets as martians unless the device is allowed to have them. It also lets containers
	// address the host's 127.0.0.1: the firewall's first chain forbids that (CVE-2020-8558).
	if err := sysctl(ctx, "ipv4/conf/"+b.Name+"/route_localnet", "1"); err != nil {
		return err
	}
	// A container can send router advertisements, and would be given the host's traffic (CVE-2020-13401).
	if err := sysctl6(ctx, "conf/"+b.Name+"/accept_ra", "0"); err != nil {
		return err
	}
	off := "1" // no IPv6 on a network that was not asked to have it, not even link-local addresses
	if b.v6() {
		off = "0"
	}
	return sysctl6(ctx, "conf/"+b.Name+"/disable_ipv6", off)
}

// Remove removes the bridge. The wires that are plugged into it stay, and lead nowhere.
func (b Bridge) Remove(ctx context.Context) error {
	h, err := socket()
	if err != nil {
		return err
	}
	defer h.Close()
	return remove(ctx, h, b.Name, b.Owner, "bridge")
}
