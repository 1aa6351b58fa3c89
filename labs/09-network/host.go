package network

import (
	"context"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The parameters that make a host a router.
const (
	forward4 = "ipv4/ip_forward"
	forward6 = "ipv6/conf/all/forwarding"
)

func forwardFile(v6 bool) string {
	if v6 {
		return forward6
	}
	return forward4
}

// Forwarding says whether the host passes packets on that are not for itself: without it containers reach the host and each
// other, but not the world, and no published port can be reached from there.
func Forwarding(_ context.Context, v6 bool) (bool, error) {
	data, err := os.ReadFile("/proc/sys/net/" + forwardFile(v6))
	if err != nil {
		return false, &Error{"read", "net." + strings.ReplaceAll(forwardFile(v6), "/", "."), unwrapPath(err)}
	}
	return strings.TrimSpace(string(data)) != "0", nil
}

// SetForwarding turns it on or off. It is the whole host's: whoever turns it on writes down what was before, and tells. With
// IPv6, a router does not believe router advertisements: see [RouterAdvertised].
func SetForwarding(ctx context.Context, v6, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	return sysctl(ctx, forwardFile(v6), value)
}

// RouterAdvertised lists the host's devices that have a default route from a router advertisement and would lose it, when it
// expires, on a host that forwards IPv6; their accept_ra would have to be 2.
func RouterAdvertised(ctx context.Context) (devices []string, err error) {
	h, err := socket()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var routes []netlink.Route
	err = message(ctx,
		func() string { return "sendto(RTM_GETROUTE: ip -6 route show default)" },
		func() (err error) {
			routes, err = h.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
			return interrupted(err)
		})
	if err != nil {
		return nil, &Error{"list routes", "", err}
	}
	for _, r := range routes {
		link, err := h.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // gone meanwhile
		}
		name := link.Attrs().Name
		if value, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/accept_ra"); err == nil && strings.TrimSpace(string(value)) == "1" {
			devices = append(devices, name)
		}
	}
	return devices, nil
}

// ForgetFlows makes the host forget the connections from or to a container's address. The kernel rewrites the packets of a
// connection as it decided at the first one; a UDP "connection" never ends, as long as somebody sends: without this, its
// packets would still go to the address of a container that is gone.
func ForgetFlows(ctx context.Context, addr netip.Addr) error {
	ip := addr.AsSlice()
	f := netlink.InetFamily(unix.AF_INET)
	if len(ip) == 16 {
		f = unix.AF_INET6
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return &Error{"open a netlink socket", "", err}
	}
	defer h.Close()
	var from, to netlink.ConntrackFilter
	if err := from.AddIP(netlink.ConntrackOrigSrcIP, ip); err != nil {
		return err
	}
	if err := to.AddIP(netlink.ConntrackReplySrcIP, ip); err != nil {
		return err
	}
	err = message(ctx,
		func() string { return "sendto(IPCTNL_MSG_CT_DELETE: conntrack -D)" },
		func() error {
			_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, f, &from, &to)
			return interrupted(err)
		})
	if err != nil {
		return &Error{"forget connections", "", err}
	}
	return nil
}
