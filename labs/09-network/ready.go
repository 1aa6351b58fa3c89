package network

import (
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Much of what the kernel says yes to is done a little later by a worker. Whoever uses it at once would see the first packet
// thrown away, and the next one only a second after that. So [Endpoint.Attach] looks until it is done.

// await looks until done says yes, for a second at most: if it is not true by then, to go on does no harm.
func await(ctx context.Context, done func() (bool, error)) error {
	for pause, end := 200*time.Microsecond, time.Now().Add(time.Second); ; pause = min(2*pause, 10*time.Millisecond) {
		ok, err := done()
		if ok || err != nil || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// operational waits until a device transmits. When its carrier comes, the kernel only notes that, and gives the device its queue
// some milliseconds later (net/core/link_watch.c). Whatever is sent in between is thrown away. From Linux 6.8 on, to ask for
// the device's state makes the kernel do it at once.
func operational(ctx context.Context, h *netlink.Handle, name string) error {
	return await(ctx, func() (bool, error) {
		link, err := find(h, name)
		done := err != nil || link == nil || link.Attrs().OperState == netlink.OperUp || link.Attrs().Flags&net.FlagUp == 0
		return done, err
	})
}

// listening waits until a device takes packets for its IPv6 addresses. For each there is a multicast group in which the question
// for its hardware address is asked (RFC 4861, solicited-node address), and a route that says that the address is here. The
// kernel joins the one and makes the other later, in this order, even where no double is looked for. It acts in the caller's
// namespace.
func listening(ctx context.Context, addresses []netip.Prefix) error {
	want := map[string]bool{}
	for _, p := range addresses {
		if p.Addr().Is6() {
			a := p.Addr().As16()
			want[hex.EncodeToString(a[:])] = true
		}
	}
	if len(want) == 0 {
		return nil
	}
	return await(ctx, func() (bool, error) {
		table, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
		if err != nil {
			return true, nil // no IPv6: then it would not have taken the addresses
		}
		have := 0
		for line := range strings.Lines(string(table)) {
			// destination length source length next-hop metric references use flags device; a length of 0x80 is one address
			f := strings.Fields(line)
			if len(f) == 10 && f[1] == "80" && f[8][0] == '8' && want[f[0]] { // flag RTF_LOCAL, 0x80000000
				have++
			}
		}
		return have >= len(want), nil
	})
}
