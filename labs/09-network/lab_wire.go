package network

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nslab/nslab/course"
)

// empty: what there is in a new network namespace.
func empty(t *course.T) error {
	box, err := newBox(t)
	if err != nil {
		return err
	}
	before, err := devices(t, box.Pid())
	if err != nil {
		return err
	}
	routes, err := lines(box.Pid(), "fib_trie", "127.0.0.1")
	if err != nil {
		return err
	}
	t.See("its devices: %s; routes to 127.0.0.1 in /proc/%s/net/fib_trie: %s", before, str(box.Pid()), str(routes))
	t.Equal("lo DOWN", before, "there is one device, lo, and that is down")
	said, err := box.Call(t.Context(), "09-ping", "127.0.0.1", "silence")
	if err != nil {
		return err
	}
	t.See("a ping to 127.0.0.1: %s", said)
	t.Equal("ENETUNREACH", said, "not even 127.0.0.1 can be reached")

	if _, err := box.Call(t.Context(), "09-lo"); err != nil {
		return err
	}
	after, err := devices(t, box.Pid())
	if err != nil {
		return err
	}
	if said, err = box.Call(t.Context(), "09-ping", "127.0.0.1", ""); err != nil {
		return err
	}
	t.See("with lo up, its devices: %s; the ping: %s", after, said)
	t.Equal("lo UP 127.0.0.1/8", after, "lo is up, and has got its address by itself")
	t.Equal("answered", said, "and 127.0.0.1 answers")
	return nil
}

// wire: a pair of devices, one end in the container.
func wire(t *course.T) error {
	s, err := newScene(t)
	if err != nil {
		return err
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "09-lo"); err != nil {
		return err
	}
	if err := s.attach(only(t, "RTM_", "setns"), "box", box, "", "10.88.0.2", ""); err != nil {
		return err
	}
	if err := s.do(t.Context(), "09-address", "nvbox", "10.88.0.1/24"); err != nil {
		return err
	}
	inside, err := devices(t, box.Pid())
	if err != nil {
		return err
	}
	host, err := devices(t, s.host.Pid())
	if err != nil {
		return err
	}
	t.See("devices on the host: %s", host)
	t.See("devices in the container: %s", inside)
	t.Equal("lo UP 127.0.0.1/8, eth0 UP 10.88.0.2/24", inside, "one end is in the container, and called eth0 there")
	var mac string
	var peer, index int
	err = inNetwork(t, box.Pid(), func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth0")
		if err == nil {
			mac, peer = link.Attrs().HardwareAddr.String(), link.Attrs().ParentIndex
		}
		return err
	})
	if err != nil {
		return err
	}
	err = inNetwork(t, s.host.Pid(), func(h *netlink.Handle) error {
		link, err := h.LinkByName("nvbox")
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	})
	if err != nil {
		return err
	}
	t.See("eth0 says that its other end has number %s; nvbox, on the host, has number %s", str(peer), str(index))
	t.Equal(index, peer, "the two are the ends of one wire")
	t.See("10.88.0.2 is 0a 58 00 02 as bytes; the hardware address of eth0 is %s", mac)
	t.Equal("02:42:0a:58:00:02", mac, "the hardware address is made of the IP address")

	said, err := s.host.Call(t.Context(), "09-ping", "10.88.0.2", "")
	if err != nil {
		return err
	}
	known, err := lines(s.host.Pid(), "arp", "10.88.0.2", mac)
	if err != nil {
		return err
	}
	t.See("a ping from the host to 10.88.0.2: %s; lines about it in the host's /proc/%s/net/arp: %s", said, str(s.host.Pid()), str(known))
	t.Equal("answered", said, "what goes into one end comes out of the other")
	t.Equal(1, known, "and the host has learned the hardware address over it")
	real, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return err
	}
	t.Check(!strings.Contains(string(real), "nvbox"), "no nvbox", "nvbox "+yes(strings.Contains(string(real), "nvbox")),
		"the real host has no such device: the one of this lab is a namespace, too")
	return nil
}

func yes(b bool) string { return map[bool]string{true: "there", false: "not there"}[b] }

// bridge: loose wires, and a switch between them.
func bridge(t *course.T) error {
	s, err := newScene(t)
	if err != nil {
		return err
	}
	one, err := s.container(t.Untraced(), "one", Bridge{}, "10.88.0.2", "")
	if err != nil {
		return err
	}
	two, err := s.container(t.Untraced(), "two", Bridge{}, "10.88.0.3", "")
	if err != nil {
		return err
	}
	said, err := one.Call(t.Untraced(), "09-ping", "10.88.0.3", "silence")
	if err != nil {
		return err
	}
	t.See("two containers, each with a wire to the host; a ping from one to the other: %s", said)
	t.Equal("silence", said, "two wires that end on the host are not connected")

	if err := s.bridge(only(t, "RTM_", "route_localnet"), blue, blueGW); err != nil {
		return err
	}
	if err := s.do(only(t, "master"), "09-master", blue.Name, "nvone", "nvtwo"); err != nil {
		return err
	}
	if said, err = one.Call(t.Untraced(), "09-ping", "10.88.0.3", ""); err != nil {
		return err
	}
	mac := MAC(netip.MustParseAddr("10.88.0.3")).String()
	known, err := lines(one.Pid(), "arp", "10.88.0.3", mac)
	if err != nil {
		return err
	}
	var ports []string
	err = inNetwork(t, s.host.Pid(), func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		master, err := h.LinkByName(blue.Name)
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().MasterIndex == master.Attrs().Index {
				ports = append(ports, l.Attrs().Name)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.See("the ports of the bridge, as the kernel lists them: %s", fmt.Sprint(ports))
	t.See("the ping now: %s; in /proc/%s/net/arp, lines with 10.88.0.3 and %s: %s", said, str(one.Pid()), mac, str(known))
	t.Equal("answered", said, "plugged into one bridge, they reach each other")
	t.Equal(1, known, "they talk directly: one has the other's own hardware address")
	if said, err = two.Call(t.Untraced(), "09-ping", blueGW, ""); err != nil {
		return err
	}
	t.See("a ping from a container to the bridge's own address: %s", said)
	t.Equal("answered", said, "and the bridge's address is the host, the containers' gateway")
	return nil
}
