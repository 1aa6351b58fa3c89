package network

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/trace"
)

//go:embed network.go names.go namespace.go links.go bridge.go veth.go ready.go firewall.go rules.go ports.go
//go:embed hold.go who.go relay.go redirect.go host.go obstacles.go legacy.go errors.go ping.go
//go:embed lab.go lab_wire.go lab_nat.go lab_share.go actors.go zh.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_wire.go (devices, wires, a bridge), lab_nat.go (the way out and the way in)
// and lab_share.go (namespaces that are shared, firewalls of others, the end).
//
// Not even the host of this lab is the real one: it is a network namespace, too. All that is made goes with it.
var Lab = course.Lab{
	Number: 9, Slug: "network", Minutes: 35,
	Title: course.Text{En: "A wire, a switch, and a way out", Zh: "一根网线、一台交换机和一条出路"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedNetNS, course.NeedVeth, course.NeedBridge, course.NeedFirewall,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "empty", Answer: 3, Run: empty},
		{ID: "wire", Run: wire},
		{ID: "bridge", Run: bridge},
		{ID: "way-out", Answer: 2, Run: wayOut},
		{ID: "published", Answer: 3, Run: published},
		{ID: "loopback", Run: loopbackOfHost},
		{ID: "isolated", Run: isolated},
		{ID: "joined", Answer: 1, Run: joined},
		{ID: "host", Answer: 2, Run: hostNetwork},
		{ID: "policy", Run: policy},
		{ID: "gone", Run: gone},
	},
	Zh: zh,
}

// scene is where a step takes place.
type scene struct {
	t    *course.T
	host *pid.Box
}

// newScene starts the box that stands for the host, with lo up.
func newScene(t *course.T) (*scene, error) {
	host, err := newBox(t)
	if err != nil {
		return nil, err
	}
	_, err = host.Call(t.Untraced(), "09-lo")
	return &scene{t, host}, err
}

// newBox starts a process in a network namespace of its own, as it comes from the kernel.
func newBox(t *course.T) (*pid.Box, error) {
	return pid.NewBox(t.Untraced(), t, pid.Config{Namespaces: unix.CLONE_NEWNET})
}

// do has the host do something.
func (s *scene) do(ctx context.Context, name string, args ...string) error {
	_, err := s.host.Call(ctx, name, args...)
	return err
}

// The networks of the lab.
var (
	blue  = Bridge{Name: "nblue", Owner: "nslab lab blue"}
	green = Bridge{Name: "ngreen", Owner: "nslab lab green"}
)

const (
	blueNet, greenNet = "10.88.0.0/24", "10.99.0.0/24"
	blueGW, greenGW   = "10.88.0.1", "10.99.0.1"
	world, router     = "192.0.2.9", "192.0.2.1" // addresses for examples, RFC 5737
)

// bridge makes one of the networks' bridges.
func (s *scene) bridge(ctx context.Context, b Bridge, gw string) error {
	b.Addresses = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(gw), 24)}
	return s.do(ctx, "09-bridge", encoded(b))
}

// allow puts a network into the firewall.
func (s *scene) allow(ctx context.Context, b Bridge, subnet string) error {
	return s.do(ctx, "09-network", "add", encoded(Network{
		Owner: b.Owner, Bridge: b.Name, Subnets: []netip.Prefix{netip.MustParsePrefix(subnet)}, Masquerade: true,
	}))
}

// container starts a box with a wire to a bridge.
func (s *scene) container(ctx context.Context, name string, b Bridge, addr, gw string) (*pid.Box, error) {
	box, err := newBox(s.t)
	if err != nil {
		return nil, err
	}
	if _, err := box.Call(s.t.Untraced(), "09-lo"); err != nil {
		return nil, err
	}
	return box, s.attach(ctx, name, box, b.Name, addr, gw)
}

func (s *scene) attach(ctx context.Context, name string, box *pid.Box, bridge, addr, gw string) error {
	e := Endpoint{
		Name: "nv" + name, Owner: "nslab lab " + name, Bridge: bridge, Inside: "eth0",
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addr), 24)},
	}
	if gw != "" {
		e.Gateways = []netip.Addr{netip.MustParseAddr(gw)}
	}
	return s.do(ctx, "09-attach", fmt.Sprintf("/proc/%d/ns/net", box.Pid()), encoded(e))
}

// outside starts a box that stands for a machine of the world: a wire to the host, and no way to any container.
func (s *scene) outside() (*pid.Box, error) {
	box, err := newBox(s.t)
	if err != nil {
		return nil, err
	}
	ctx := s.t.Untraced()
	if _, err := box.Call(ctx, "09-lo"); err != nil {
		return nil, err
	}
	if err := s.attach(ctx, "world", box, "", world, ""); err != nil {
		return nil, err
	}
	return box, s.do(ctx, "09-address", "nvworld", router+"/24")
}

// call is what a server answers to a box: the address under which it sees the caller.
func call(t *course.T, box *pid.Box, proto, addr string, expect string) (string, error) {
	return box.Call(t.Untraced(), "09-call", proto, addr, expect)
}

// inNetwork runs f in the network namespace of a process, to look around there with our own eyes.
func inNetwork(t *course.T, pid int, f func(*netlink.Handle) error) error {
	ns, err := OpenNamespace(t.Untraced(), fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(t.Untraced(), func(context.Context) error {
		h, err := socket()
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// devices lists a process's network devices with their states and addresses: "lo DOWN, eth0 UP 10.88.0.2/24".
func devices(t *course.T, pid int) (text string, err error) {
	err = inNetwork(t, pid, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		var all []string
		for _, l := range links {
			if l.Attrs().Name != "lo" && l.Type() != "veth" && l.Type() != "bridge" {
				continue // what some kernels put into every namespace: tunl0, sit0 …
			}
			one := l.Attrs().Name + " DOWN"
			if l.Attrs().Flags&net.FlagUp != 0 {
				one = l.Attrs().Name + " UP"
			}
			addrs, err := h.AddrList(l, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				one += " " + a.IPNet.String()
			}
			all = append(all, one)
		}
		text = strings.Join(all, ", ")
		return nil
	})
	return text, err
}

// inode is the number of a process's network namespace.
func inode(box *pid.Box) string {
	n, err := evidence.Namespace(box.Pid(), "net")
	if err != nil {
		return evidence.Answer(err)
	}
	return fmt.Sprintf("net:[%d]", n)
}

// lines counts the lines of a file in /proc/PID/net that have all of these words.
func lines(pid int, file string, words ...string) (n int, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
	for line := range strings.Lines(string(data)) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			n++
		}
	}
	return n, err
}

// only is the step's context for calls whose texts have one of these words.
func only(t *course.T, words ...string) context.Context {
	shown := t.Context()
	return trace.With(t.Untraced(), func(r trace.Record) {
		for _, w := range words {
			if strings.Contains(r.Text, w) {
				trace.Replay(shown, r)
				return
			}
		}
	})
}

// bornIn starts a process that is born in another's network namespace, in new ones of these other kinds: `--net container:ID`.
func bornIn(ctx context.Context, t *course.T, other *pid.Box, namespaces uintptr) (*pid.Box, error) {
	f, _, err := setns.OpenFile(t.Untraced(), fmt.Sprintf("/proc/%d/ns/net", other.Pid()))
	if err != nil {
		return nil, err
	}
	box, err := pid.NewBox(ctx, t, pid.Config{
		Namespaces: namespaces,
		Before: func(context.Context) error {
			return setns.Setns(ctx, f, unix.CLONE_NEWNET)
		},
	})
	return box, errors.Join(err, f.Close())
}

func str(n int) string { return strconv.Itoa(n) }

// inNetworkTables lists nslab's firewall tables in the network namespace of a process.
func inNetworkTables(t *course.T, pid int, f func([]string)) error {
	return inNetwork(t, pid, func(*netlink.Handle) error {
		names, err := Tables(t.Untraced(), "nslab")
		f(names)
		return err
	})
}
