package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network device that bears an owner's name.
type Link struct {
	Name, Owner string
	Kind        string // "bridge", "veth"
	Index       int
	Master      string // the bridge to which it is attached
	Up          bool
}

// socket opens a connection to the kernel's routing and link layer.
func socket() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, &Error{"open a netlink socket", "", err}
	}
	return h, nil
}

// find looks a link up by its name, nil if there is none.
func find(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{"look up link", name, err}
	}
	return link, nil
}

// owned is find for a link that must be the owner's. One without an alias, but of our group, is one whose maker was killed
// before it had written the owner down.
func owned(h *netlink.Handle, name, owner, kind string) (netlink.Link, error) {
	link, err := find(h, name)
	if link == nil || err != nil {
		return nil, err
	}
	a := link.Attrs()
	if link.Type() != kind || a.Alias != owner && (a.Alias != "" || a.Group != group) {
		return nil, &Error{"use link", name, ErrNotOurs}
	}
	return link, nil
}

// remove removes a link, if it is the owner's. None is no error.
func remove(ctx context.Context, h *netlink.Handle, name, owner, kind string) error {
	link, err := owned(h, name, owner, kind)
	if link == nil || err != nil {
		return err
	}
	err = message(ctx,
		func() string { return fmt.Sprintf("sendto(RTM_DELLINK: ip link delete %s)", name) },
		func() error { return h.LinkDel(link) })
	if err != nil && !errors.Is(err, unix.ENODEV) { // it went with its other end, or somebody was faster
		return &Error{"delete link", name, err}
	}
	return nil
}

// setAlias writes down whose a link is, where ip(8) shows it.
func setAlias(ctx context.Context, h *netlink.Handle, link netlink.Link, owner string) error {
	err := message(ctx,
		func() string {
			return fmt.Sprintf("sendto(RTM_SETLINK: ip link set %s alias %q)", link.Attrs().Name, owner)
		},
		func() error { return h.LinkSetAlias(link, owner) })
	if err != nil {
		return &Error{"mark link", link.Attrs().Name, err}
	}
	return nil
}

// up brings a link up.
func up(ctx context.Context, h *netlink.Handle, link netlink.Link) error {
	err := message(ctx,
		func() string { return fmt.Sprintf("sendto(RTM_NEWLINK: ip link set %s up)", link.Attrs().Name) },
		func() error { return h.LinkSetUp(link) })
	if err != nil {
		return &Error{"bring up", link.Attrs().Name, err}
	}
	return nil
}

// address gives a link an address. For IPv6 without duplicate address detection: that takes a second in which the address
// cannot be used, and who hands out the addresses knows that there is no other.
func address(ctx context.Context, h *netlink.Handle, link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	text := "sendto(RTM_NEWADDR: ip address replace %s dev %s)"
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
		text = "sendto(RTM_NEWADDR: ip address replace %s dev %s nodad)"
	}
	err := message(ctx,
		func() string { return fmt.Sprintf(text, p, link.Attrs().Name) },
		func() error { return h.AddrReplace(link, a) })
	if err != nil {
		return &Error{"give " + link.Attrs().Name + " address", p.String(), err}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Links lists the links whose owner begins like this, in the caller's network namespace.
func Links(ctx context.Context, ownerPrefix string) (list []Link, err error) {
	h, err := socket()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var all []netlink.Link
	err = message(ctx,
		func() string { return "sendto(RTM_GETLINK: ip link show)" },
		func() (err error) { all, err = h.LinkList(); return interrupted(err) })
	if err != nil {
		return nil, &Error{"list links", "", err}
	}
	names := map[int]string{}
	for _, l := range all {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range all {
		if a := l.Attrs(); a.Alias != "" && strings.HasPrefix(a.Alias, ownerPrefix) {
			list = append(list, Link{a.Name, a.Alias, l.Type(), a.Index, names[a.MasterIndex], a.Flags&net.FlagUp != 0})
		}
	}
	return list, nil
}

// interrupted makes a list during which something changed one that is asked for again.
func interrupted(err error) error {
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return unix.EINTR
	}
	return err
}

// HostPrefixes lists what the host's addresses and routes, in all tables, cover already, default routes aside: whoever
// chooses a subnet keeps out of these.
func HostPrefixes(ctx context.Context) (list []netip.Prefix, err error) {
	h, err := socket()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var routes []netlink.Route
	err = message(ctx,
		func() string { return "sendto(RTM_GETROUTE: ip route show table all)" },
		func() (err error) {
			routes, err = h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			return interrupted(err)
		})
	if err != nil {
		return nil, &Error{"list routes", "", err}
	}
	seen := map[netip.Prefix]bool{}
	for _, r := range routes {
		if r.Dst == nil || r.Type == unix.RTN_MULTICAST || r.Type == unix.RTN_BROADCAST {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		p := netip.PrefixFrom(addr.Unmap(), ones).Masked()
		if !ok || ones == 0 || seen[p] || addr.IsLinkLocalUnicast() || addr.IsMulticast() {
			continue
		}
		seen[p] = true
		list = append(list, p)
	}
	return list, nil
}

// sysctl sets a kernel parameter of the calling thread's network namespace.
func sysctl(ctx context.Context, name, value string) error {
	file := "/proc/sys/net/" + name
	err := message(ctx,
		func() string { return "write " + value + " → " + file },
		func() error { return os.WriteFile(file, []byte(value), 0) })
	if err != nil {
		return &Error{"set", "net." + strings.ReplaceAll(name, "/", "."), unwrapPath(err)}
	}
	return nil
}

// sysctl6 is sysctl for IPv6, which a kernel may not have at all.
func sysctl6(ctx context.Context, name, value string) error {
	err := sysctl(ctx, "ipv6/"+name, value)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
