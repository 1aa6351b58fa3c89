package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do, each in its own network namespace. The one that stands for the host calls the stage there, as
// nslab does on a real one.
func init() {
	actor.Register("09-lo", func(ctx context.Context, _ []string) (string, error) { return "", LoopbackUp(ctx) })
	actor.Register("09-bridge", func(ctx context.Context, args []string) (string, error) {
		return "", decoded[Bridge](args[0]).Make(ctx)
	})
	actor.Register("09-network", changeNetwork)
	actor.Register("09-attach", attach)
	actor.Register("09-address", giveAddress)
	actor.Register("09-forward", func(ctx context.Context, args []string) (string, error) {
		return "", SetForwarding(ctx, false, args[0] == "on")
	})
	actor.Register("09-publish", publish)
	actor.Register("09-ping", pingFrom)
	actor.Register("09-serve", serveHere)
	actor.Register("09-heard", func(context.Context, []string) (string, error) { return heard.take(), nil })
	actor.Register("09-call", callFrom)
	actor.Register("09-lose-lo", loseLoopback)
	actor.Register("09-abstract", abstract)
	actor.Register("09-drop", dropAll)
	actor.Register("09-look", obstacles)
	actor.Register("09-master", plugIn)
}

// labTable is the one that the lab's host has.
const labTable = "nslab-lab"

// decoded reads what [encoded] wrote for an actor of this very program.
func decoded[T any](text string) (v T) {
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic(err)
	}
	return v
}

func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func changeNetwork(ctx context.Context, args []string) (string, error) {
	f := Firewall{Table: labTable}
	if args[0] == "remove" {
		return "", f.Remove(ctx)
	}
	return "", f.AddNetwork(ctx, decoded[Network](args[1]))
}

func attach(ctx context.Context, args []string) (_ string, err error) {
	ns, err := OpenNamespace(ctx, args[0])
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	return "", decoded[Endpoint](args[1]).Attach(ctx, ns)
}

// giveAddress gives the host's end of a wire without a bridge an address.
func giveAddress(ctx context.Context, args []string) (string, error) {
	h, err := socket()
	if err != nil {
		return "", err
	}
	defer h.Close()
	link, err := find(h, args[0])
	if err == nil && link == nil {
		err = &Error{"look up link", args[0], unix.ENODEV}
	}
	if err != nil {
		return "", err
	}
	return "", address(ctx, h, link, netip.MustParsePrefix(args[1]))
}

// plugIn plugs wires that are there into a bridge.
func plugIn(ctx context.Context, args []string) (string, error) {
	h, err := socket()
	if err != nil {
		return "", err
	}
	defer h.Close()
	for _, name := range args[1:] {
		link, err := find(h, name)
		if err == nil && link == nil {
			err = &Error{"look up link", name, unix.ENODEV}
		}
		if err == nil {
			err = plug(ctx, h, link, args[0])
		}
		if err != nil {
			return "", err
		}
	}
	return "", operational(trace.Off(ctx), h, args[0])
}

func publish(ctx context.Context, args []string) (string, error) {
	f := Firewall{Table: labTable}
	if args[0] == "remove" {
		return "", f.Unpublish(ctx, args[1])
	}
	return "", f.Publish(ctx, args[1], decoded[[]Port](args[2])...)
}

func pingFrom(ctx context.Context, args []string) (string, error) {
	wait := 2 * time.Second
	if args[1] == "silence" { // is what is expected: no need to wait for long
		wait = 400 * time.Millisecond
	}
	return ping(ctx, netip.MustParseAddr(args[0]), wait)
}

// heard is whom an actor's servers have heard from.
var heard callers

type callers struct {
	mu   sync.Mutex
	list []string
}

func (c *callers) add(addr net.Addr) string {
	ap, _ := netip.ParseAddrPort(addr.String())
	who := ap.Addr().Unmap().String()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, who)
	return who
}

func (c *callers) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Join(slices.Compact(c.list), " ")
	c.list = nil
	return all
}

// serveHere answers each caller with the address that it has from here.
func serveHere(_ context.Context, args []string) (string, error) {
	if args[0] == "udp" {
		c, err := net.ListenPacket("udp4", args[1])
		if err != nil {
			return "", err
		}
		go func() {
			for buf := make([]byte, 100); ; {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				c.WriteTo([]byte(heard.add(from)), from)
			}
		}()
		return "", nil
	}
	l, err := net.Listen("tcp4", args[1])
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, heard.add(c.RemoteAddr()))
			c.Close()
		}
	}()
	return "", nil
}

// callFrom calls a server and says what it answers: the address under which it sees us. Or why there is no answer.
func callFrom(_ context.Context, args []string) (string, error) {
	wait := 3 * time.Second
	if args[2] == "silence" {
		wait = 400 * time.Millisecond
	}
	c, err := net.DialTimeout(args[0]+"4", args[1], wait)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		if args[0] == "udp" {
			_, err = c.Write([]byte("?"))
		}
		buf, n := make([]byte, 100), 0
		if err == nil {
			n, err = c.Read(buf)
		}
		if err == nil {
			return string(buf[:n]), nil
		}
	}
	var errno unix.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silence", nil
	case errors.As(err, &errno):
		return unix.ErrnoName(errno), nil
	}
	return "", err
}

// loseLoopback takes 127.0.0.0/8 away from lo and sends it to the gateway, as root in a container may.
func loseLoopback(ctx context.Context, args []string) (string, error) {
	for _, s := range []string{"ipv4/conf/all/route_localnet", "ipv4/conf/eth0/route_localnet"} {
		if err := sysctl(trace.Off(ctx), s, "1"); err != nil {
			return "", err
		}
	}
	h, err := socket()
	if err != nil {
		return "", err
	}
	defer h.Close()
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return "", err
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP.IsLoopback() {
			if err := h.RouteDel(&r); err != nil {
				return "", err
			}
		}
	}
	link, err := find(h, "eth0")
	if link == nil || err != nil {
		return "", err
	}
	all := netip.MustParsePrefix("127.0.0.0/8")
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(all), Gw: net.ParseIP(args[0])}
	return "", message(ctx,
		func() string {
			return fmt.Sprintf("sendto(RTM_NEWROUTE: ip route replace %s via %s)", all, args[0])
		},
		func() error { return h.RouteReplace(route) })
}

// abstract listens at, or connects to, a socket with a name that is no file: names of that kind belong to the network
// namespace. See unix(7).
func abstract(ctx context.Context, args []string) (said string, err error) {
	name := "@" + args[1]
	if args[0] == "listen" {
		var l net.Listener
		err = trace.Call(ctx, 0, func() string { return fmt.Sprintf("bind(@%q)", args[1]) },
			func() (err error) { l, err = net.Listen("unix", name); return err })
		if err == nil {
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprintf(c, "at your service, as uid %d", os.Getuid())
					c.Close()
				}
			}()
		}
		return "", err
	}
	c, err := net.Dial("unix", name)
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno), nil
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// dropAll is a firewall of somebody else's that lets nothing through, in the manner of many distributions and of Docker.
func dropAll(ctx context.Context, _ []string) (string, error) {
	return "", message(ctx,
		func() string {
			return "sendmsg(NFT_MSG_NEWCHAIN: nft add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; })"
		},
		func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			policy, priority := nftables.ChainPolicyDrop, nftables.ChainPriority(0)
			t := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
			c.AddChain(&nftables.Chain{
				Table: t, Name: "FORWARD", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
				Priority: &priority, Policy: &policy,
			})
			return c.Flush()
		})
}

// obstacles asks the stage what is in the way.
func obstacles(ctx context.Context, _ []string) (string, error) {
	all, err := Obstacles(ctx)
	return encoded(all), err
}

// blocked is a packet that did not get through, for a diagnosis.
type blocked struct{ conditions []diagnosis.Condition }

func (*blocked) Error() string                       { return "no answer" }
func (b *blocked) Conditions() []diagnosis.Condition { return b.conditions }
