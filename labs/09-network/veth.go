package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Endpoint is a container's place in a network: a wire from a bridge to a device inside.
type Endpoint struct {
	Name, Owner string           // the end on the host, and whose
	Bridge      string           // into which it is plugged; empty leaves it loose
	Inside      string           // what the device is called inside: "eth0"
	MAC         net.HardwareAddr // of that device; nil derives it from the first address
	Addresses   []netip.Prefix   // inside, each with the length of its subnet
	Gateways    []netip.Addr     // default routes, at most one of each family
	MTU         int              // 0 leaves the kernel's, 1500
}

// Attach makes the wire and everything inside that belongs to it: from its return on the container can be reached. Whatever
// fails, nothing is left.
func (e Endpoint) Attach(ctx context.Context, ns *Namespace) (err error) {
	h, err := socket()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := e.pair(ctx, h, ns)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // both ends go with either
			err = errors.Join(err, remove(trace.Off(context.WithoutCancel(ctx)), h, e.Name, e.Owner, "veth"))
		}
	}()
	if err := setAlias(ctx, h, link, e.Owner); err != nil {
		return err
	}
	devices := []string{e.Name}
	if e.Bridge != "" {
		if err := plug(ctx, h, link, e.Bridge); err != nil {
			return err
		}
		devices = append(devices, e.Bridge)
	}
	// A wire carries as soon as both ends are up. The one inside comes last, so that no frame arrives at a device that is only
	// half arranged.
	if err := up(ctx, h, link); err != nil {
		return err
	}
	if err := ns.Do(ctx, e.arrange); err != nil {
		return err
	}
	for _, name := range devices {
		if err := operational(ctx, h, name); err != nil {
			return err
		}
	}
	return nil
}

// pair makes both ends. The other one is born inside the namespace, under its final name: to make it here and to move it there
// would stop the machine's network for an RCU grace period, and show the host a device that is not its own.
func (e Endpoint) pair(ctx context.Context, h *netlink.Handle, ns *Namespace) (netlink.Link, error) {
	link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: e.Inside, PeerTxQLen: -1}
	link.Name, link.Group, link.MTU = e.Name, group, e.MTU
	link.NumTxQueues, link.NumRxQueues = 1, 1 // the kernel would prepare one for each processor, and use one
	link.PeerNamespace = netlink.NsFd(ns.f.Fd())
	link.PeerHardwareAddr = e.MAC
	if e.MAC == nil && len(e.Addresses) > 0 {
		link.PeerHardwareAddr = MAC(e.Addresses[0].Addr())
	}
	create := func() error {
		return message(ctx,
			func() string {
				return fmt.Sprintf("sendto(RTM_NEWLINK: ip link add %q type %q peer name %q netns %d)",
					e.Name, "veth", e.Inside, ns.f.Fd())
			},
			func() error { return h.LinkAdd(link) })
	}
	err := create()
	if errors.Is(err, unix.EEXIST) {
		// The name is that of the same container's last life: the kernel takes its time to clear away a namespace that nobody is
		// in any more. Or it is the name inside that is taken; then this changes nothing.
		if err := remove(ctx, h, e.Name, e.Owner, "veth"); err != nil {
			return nil, err
		}
		err = create()
	}
	if err != nil {
		return nil, &Error{"create veth pair", e.Name, err}
	}
	return link, nil
}

// plug makes a link a port of the bridge.
func plug(ctx context.Context, h *netlink.Handle, link netlink.Link, bridge string) error {
	name := link.Attrs().Name
	master, err := find(h, bridge)
	if err == nil && master == nil {
		err = &Error{"plug " + name + " into", bridge, unix.ENODEV}
	}
	if err != nil {
		return err
	}
	err = message(ctx,
		func() string {
			return fmt.Sprintf("sendto(RTM_SETLINK: ip link set %s master %s)", name, bridge)
		},
		func() error { return h.LinkSetMaster(link, master) })
	if err != nil {
		return &Error{"plug " + name + " into", bridge, err}
	}
	// Where bridged frames go through the IP firewall (br_netfilter, which Docker turns on), a container that calls itself by
	// a published port has its packet turned round within the bridge, which never sends a frame back to where it came from
	// unless told to.
	if !bridgedFiltered() {
		return nil
	}
	err = message(ctx,
		func() string { return fmt.Sprintf("sendto(RTM_SETLINK: bridge link set dev %s hairpin on)", name) },
		func() error { return h.LinkSetHairpin(link, true) })
	if err != nil {
		return &Error{"let frames turn round at", name, err}
	}
	return nil
}

// bridgedFiltered says whether what a bridge carries is shown to the firewall as well.
func bridgedFiltered() bool {
	for _, file := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		value, err := os.ReadFile("/proc/sys/net/bridge/" + file)
		if err == nil && len(value) > 0 && value[0] == '1' {
			return true
		}
	}
	return false
}

// arrange gives the device inside its addresses and routes. It runs in the namespace.
func (e Endpoint) arrange(ctx context.Context) error {
	h, err := socket()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := find(h, e.Inside)
	if err == nil && link == nil {
		err = &Error{"look up link", e.Inside, unix.ENODEV}
	}
	if err != nil {
		return err
	}
	if err := e.quiet(ctx); err != nil {
		return err
	}
	for _, p := range e.Addresses {
		if err := address(ctx, h, link, p); err != nil {
			return err
		}
	}
	if err := up(ctx, h, link); err != nil { // before the routes: one through a device that is down is refused
		return err
	}
	for _, gw := range e.Gateways {
		if err := defaultRoute(ctx, h, link, gw); err != nil {
			return err
		}
	}
	return listening(ctx, e.Addresses)
}

// quiet keeps the kernel from giving the device addresses and routes of its own accord, before it is up.
func (e Endpoint) quiet(ctx context.Context) error {
	conf := "conf/" + e.Inside + "/"
	if !slices.ContainsFunc(e.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return sysctl6(ctx, conf+"disable_ipv6", "1")
	}
	for _, s := range []struct{ name, value string }{
		{"disable_ipv6", "0"},
		{"accept_ra", "0"},  // the neighbours are containers: none of them is a router
		{"accept_dad", "0"}, // nor has the link-local address a double
	} {
		if err := sysctl6(ctx, conf+s.name, s.value); err != nil {
			return err
		}
	}
	return nil
}

// defaultRoute sends everything that has no other way to gw.
func defaultRoute(ctx context.Context, h *netlink.Handle, link netlink.Link, gw netip.Addr) error {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if gw.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw.AsSlice(), Dst: ipNet(all)}
	err := message(ctx,
		func() string {
			return fmt.Sprintf("sendto(RTM_NEWROUTE: ip route replace default via %s dev %s)", gw, link.Attrs().Name)
		},
		func() error { return h.RouteReplace(route) })
	if err != nil {
		return &Error{"set default route", gw.String(), err}
	}
	return nil
}

// SetGateway gives a namespace, in which a device is arranged already, another default route.
func SetGateway(ctx context.Context, ns *Namespace, inside string, gw netip.Addr) error {
	return ns.Do(ctx, func(ctx context.Context) error {
		h, err := socket()
		if err != nil {
			return err
		}
		defer h.Close()
		link, err := find(h, inside)
		if err == nil && link == nil {
			err = &Error{"look up link", inside, unix.ENODEV}
		}
		if err != nil {
			return err
		}
		return defaultRoute(ctx, h, link, gw)
	})
}

// Detach removes the wire, both ends, and waits until it is gone, which takes the kernel about 10 ms. When a network namespace
// ends, its devices go by themselves, and nobody has to wait.
func (e Endpoint) Detach(ctx context.Context) error {
	h, err := socket()
	if err != nil {
		return err
	}
	defer h.Close()
	return remove(ctx, h, e.Name, e.Owner, "veth")
}
