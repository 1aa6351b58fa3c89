package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
)

const testOwner = "nslab test "

// newHost moves the test's thread into a new network namespace, which stands for the host. The thread ends with the test.
func newHost(t *testing.T) context.Context {
	t.Helper()
	coursetest.NeedRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	must(t, LoopbackUp(t.Context()))
	for _, v6 := range []bool{false, true} {
		must(t, SetForwarding(t.Context(), v6, true))
	}
	return t.Context()
}

// newNamespace makes another one, which lives as long as the test.
func newNamespace(t testing.TB) *Namespace {
	t.Helper()
	type result struct {
		ns  *Namespace
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // for good
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{nil, err}
			return
		}
		ns, err := OpenNamespace(context.Background(), "/proc/thread-self/ns/net")
		made <- result{ns, errors.Join(err, LoopbackUp(context.Background()))}
	}()
	r := <-made
	must(t, r.err)
	t.Cleanup(func() { r.ns.Close() })
	return r.ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testWorld is a host with a network of two containers, another network with one, and a machine outside.
type testWorld struct {
	fw         Firewall
	net1, net2 Network
	a, b, c    *Namespace // a and b in net1
	outside    *Namespace
	hostAddr   netip.Addr // on the way to the outside
	hostAddr6  netip.Addr
	outAddr    netip.Addr
	a4, a6     netip.Addr
}

func newWorld(t *testing.T, bridged bool) (context.Context, *testWorld) {
	t.Helper()
	ctx := newHost(t)
	for _, file := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		value := "0"
		if bridged {
			value = "1"
		}
		if err := os.WriteFile("/proc/sys/net/bridge/"+file, []byte(value), 0); err != nil && bridged {
			t.Skip("no br_netfilter here: ", err)
		}
	}
	w := &testWorld{fw: Firewall{Table: "nslab-test"}}
	w.net1 = Network{Owner: testOwner + "net1", Bridge: "nbtest1", Masquerade: true, Subnets: prefixes("10.7.1.0/24", "fd07:1::/64")}
	w.net2 = Network{Owner: testOwner + "net2", Bridge: "nbtest2", Masquerade: true, Subnets: prefixes("10.7.2.0/24")}
	must(t, Bridge{Name: "nbtest1", Owner: testOwner + "net1", Addresses: prefixes("10.7.1.1/24", "fd07:1::1/64")}.Make(ctx))
	must(t, Bridge{Name: "nbtest2", Owner: testOwner + "net2", Addresses: prefixes("10.7.2.1/24")}.Make(ctx))
	must(t, w.fw.AddNetwork(ctx, w.net1))
	must(t, w.fw.AddNetwork(ctx, w.net2))
	container := func(name, bridge string, gw []string, addrs ...string) *Namespace {
		ns := newNamespace(t)
		e := Endpoint{Name: "nvtest" + name, Owner: testOwner + name, Bridge: bridge, Inside: "eth0", Addresses: prefixes(addrs...)}
		for _, g := range gw {
			e.Gateways = append(e.Gateways, netip.MustParseAddr(g))
		}
		must(t, e.Attach(ctx, ns))
		return ns
	}
	gw1 := []string{"10.7.1.1", "fd07:1::1"}
	w.a = container("a", "nbtest1", gw1, "10.7.1.2/24", "fd07:1::2/64")
	w.b = container("b", "nbtest1", gw1, "10.7.1.3/24", "fd07:1::3/64")
	w.c = container("c", "nbtest2", []string{"10.7.2.1"}, "10.7.2.2/24")
	w.a4, w.a6 = netip.MustParseAddr("10.7.1.2"), netip.MustParseAddr("fd07:1::2")

	// The world: a wire without a bridge, and no way back to the containers but by the host's own address.
	w.outside = newNamespace(t)
	wire := Endpoint{Name: "uplink", Owner: testOwner + "uplink", Inside: "eth0", Addresses: prefixes("192.0.2.2/24", "2001:db8::2/64")}
	must(t, wire.Attach(ctx, w.outside))
	h, err := socket()
	must(t, err)
	defer h.Close()
	link, err := find(h, "uplink")
	must(t, err)
	for _, p := range prefixes("192.0.2.1/24", "2001:db8::1/64", "fe80::1/64") {
		must(t, address(ctx, h, link, p))
	}
	must(t, listening(ctx, prefixes("192.0.2.1/24", "2001:db8::1/64", "fe80::1/64")))
	w.hostAddr, w.hostAddr6, w.outAddr = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.2")
	return ctx, w
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// serve answers each call in a namespace (nil: the host's) with the caller's address.
func serve(t *testing.T, ns *Namespace, network, addr string) {
	t.Helper()
	in(t, ns, func() error {
		if strings.HasPrefix(network, "udp") {
			c, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 100)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					c.WriteTo([]byte(from.String()), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, c.RemoteAddr())
				c.Close()
			}
		}()
		return nil
	})
}

// dial says whom the server in the end saw calling, or why nobody answered.
func dial(t *testing.T, ns *Namespace, network, addr string) (who string) {
	t.Helper()
	in(t, ns, func() error {
		c, err := net.DialTimeout(network, addr, 700*time.Millisecond)
		if err != nil {
			who = answer(err)
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(700 * time.Millisecond))
		if strings.HasPrefix(network, "udp") {
			c.Write([]byte("x"))
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			who = answer(err)
			return nil
		}
		ap, err := netip.ParseAddrPort(string(buf[:n]))
		who = ap.Addr().Unmap().String()
		return err
	})
	return who
}

func answer(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), strings.HasSuffix(err.Error(), "i/o timeout"):
		return "silence"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.Is(err, unix.ENETUNREACH):
		return "unreachable"
	}
	return err.Error()
}

func in(t *testing.T, ns *Namespace, f func() error) {
	t.Helper()
	if ns == nil {
		must(t, f())
		return
	}
	must(t, ns.Do(t.Context(), func(context.Context) error { return f() }))
}

type want struct {
	from          *Namespace
	network, addr string
	who           string
}

func (w want) check(t *testing.T, what string) {
	t.Helper()
	if got := dial(t, w.from, w.network, w.addr); got != w.who {
		t.Errorf("%s: %s %s: answered for %s; want %s", what, w.network, w.addr, got, w.who)
	}
}

func TestReach(t *testing.T) {
	_, w := newWorld(t, false)
	serve(t, w.a, "tcp", ":80")
	serve(t, w.outside, "tcp", ":80")
	serve(t, nil, "tcp", "127.0.0.1:22")
	serve(t, nil, "udp", "0.0.0.0:53")
	for what, c := range map[string]want{
		"host to container":                    {nil, "tcp", "10.7.1.2:80", "10.7.1.1"},
		"host to container, IPv6":              {nil, "tcp", "[fd07:1::2]:80", "fd07:1::1"},
		"container to container":               {w.b, "tcp", "10.7.1.2:80", "10.7.1.3"},
		"container to container, IPv6":         {w.b, "tcp", "[fd07:1::2]:80", "fd07:1::3"},
		"container to itself":                  {w.a, "tcp", "127.0.0.1:80", "127.0.0.1"},
		"container to the world":               {w.b, "tcp", "192.0.2.2:80", "192.0.2.1"},
		"container to the world, IPv6":         {w.b, "tcp", "[2001:db8::2]:80", "2001:db8::1"},
		"container to another network":         {w.c, "tcp", "10.7.1.2:80", "silence"},
		"container to the host":                {w.b, "udp", "10.7.1.1:53", "10.7.1.3"},
		"container to its own 127.0.0.1, none": {w.b, "tcp", "127.0.0.1:22", "refused"},
	} {
		c.check(t, what)
	}
	// A neighbour who sends to the container's own address by way of the host.
	h, err := socket()
	must(t, err)
	h.Close()
	must(t, SetGateway(t.Context(), w.outside, "eth0", w.hostAddr))
	want{w.outside, "tcp", "10.7.1.2:80", "silence"}.check(t, "outside to what is not published")
	want{w.outside, "tcp", "[fd07:1::2]:80", "unreachable"}.check(t, "outside to what is not published, IPv6")
}

func TestPublish(t *testing.T) {
	for _, bridged := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridge-nf-call %t", bridged), func(t *testing.T) { testPublish(t, bridged) })
	}
}

func testPublish(t *testing.T, bridged bool) {
	ctx, w := newWorld(t, bridged)
	serve(t, w.a, "tcp", ":80")
	serve(t, w.a, "udp4", "0.0.0.0:53")
	serve(t, w.a, "udp6", "[::]:53")
	ap := netip.MustParseAddrPort
	must(t, w.fw.Publish(ctx, testOwner+"a",
		Port{Proto: "tcp", Host: ap("0.0.0.0:4000"), Target: ap("10.7.1.2:80")},
		Port{Proto: "tcp", Host: ap("[::]:4000"), Target: ap("[fd07:1::2]:80")},
		Port{Proto: "udp", Host: ap("0.0.0.0:5300"), Target: ap("10.7.1.2:53")},
		Port{Proto: "udp", Host: ap("[::]:5300"), Target: ap("[fd07:1::2]:53")},
		Port{Proto: "tcp", Host: ap("127.0.0.1:4001"), Target: ap("10.7.1.2:80")},
		Port{Proto: "tcp", Host: ap("192.0.2.1:4002"), Target: ap("10.7.1.2:80")},
		Port{Proto: "tcp", Host: ap("0.0.0.0:6000"), Target: ap("10.7.1.2:79"), Count: 3},
	))
	neighbour := "10.7.1.1" // rewritten to the host, or seen through by br_netfilter, which rewrites the answer in the bridge
	for what, c := range map[string]want{
		"127.0.0.1":                          {nil, "tcp", "127.0.0.1:4000", "10.7.1.1"},
		"another loopback address":           {nil, "tcp", "127.1.2.3:4000", "10.7.1.1"},
		"the host's address":                 {nil, "tcp", "192.0.2.1:4000", "192.0.2.1"},
		"the host's address, IPv6":           {nil, "tcp", "[2001:db8::1]:4000", "2001:db8::1"},
		"outside":                            {w.outside, "tcp", "192.0.2.1:4000", "192.0.2.2"},
		"outside, IPv6":                      {w.outside, "tcp", "[2001:db8::1]:4000", "2001:db8::2"},
		"a container":                        {w.b, "tcp", "192.0.2.1:4000", neighbour},
		"a container, by the gateway":        {w.b, "tcp", "10.7.1.1:4000", neighbour},
		"a container, IPv6":                  {w.b, "tcp", "[2001:db8::1]:4000", "fd07:1::1"},
		"itself":                             {w.a, "tcp", "192.0.2.1:4000", "10.7.1.1"},
		"itself, IPv6":                       {w.a, "tcp", "[2001:db8::1]:4000", "fd07:1::1"},
		"another network's container":        {w.c, "tcp", "192.0.2.1:4000", "10.7.1.1"},
		"UDP, 127.0.0.1":                     {nil, "udp", "127.0.0.1:5300", "10.7.1.1"},
		"UDP, outside":                       {w.outside, "udp", "192.0.2.1:5300", "192.0.2.2"},
		"UDP, outside, IPv6":                 {w.outside, "udp", "[2001:db8::1]:5300", "2001:db8::2"},
		"UDP, a container":                   {w.b, "udp", "192.0.2.1:5300", neighbour},
		"published for 127.0.0.1":            {nil, "tcp", "127.0.0.1:4001", "10.7.1.1"},
		"for 127.0.0.1, by another address":  {nil, "tcp", "192.0.2.1:4001", "refused"},
		"for 127.0.0.1, from outside":        {w.outside, "tcp", "192.0.2.1:4001", "refused"},
		"for one address":                    {w.outside, "tcp", "192.0.2.1:4002", "192.0.2.2"},
		"for one address, by another":        {nil, "tcp", "127.0.0.1:4002", "refused"},
		"the second of a range":              {w.outside, "tcp", "192.0.2.1:6001", "192.0.2.2"},
		"the first of a range, nobody there": {w.outside, "tcp", "192.0.2.1:6000", "refused"},
		"after the range":                    {w.outside, "tcp", "192.0.2.1:6003", "refused"},
	} {
		c.check(t, what)
	}
	must(t, w.fw.Unpublish(ctx, testOwner+"a"))
	want{w.outside, "tcp", "192.0.2.1:4000", "refused"}.check(t, "outside, after it is over")
	want{nil, "tcp", "127.0.0.1:4000", "refused"}.check(t, "127.0.0.1, after it is over")
}

// TestNft has nft(8) say what the kernel has, and compares it with the texts beside the rules.
func TestNft(t *testing.T) {
	ctx, w := newWorld(t, false)
	if _, err := exec.LookPath("nft"); err != nil {
		coursetest.Missing(t, "nft")
	}
	ap := netip.MustParseAddrPort
	must(t, w.fw.Publish(ctx, testOwner+"a",
		Port{Proto: "tcp", Target: ap("10.7.1.2:80"), Host: netip.AddrPortFrom(netip.Addr{}, 4000)},
		Port{Proto: "udp", Host: ap("[2001:db8::1]:5300"), Target: ap("[fd07:1::2]:53")}))
	out, err := exec.Command("nft", "list", "table", "inet", w.fw.Table).CombinedOutput()
	must(t, err)
	text := string(out)
	for _, r := range newRules() {
		chain := regexp.MustCompile(`(?s)\tchain ` + r.chain + ` \{\n(.*?)\n\t\}`).FindStringSubmatch(text)
		if chain == nil || !strings.Contains(chain[1]+"\n", "\t\t"+r.text+"\n") {
			t.Errorf("chain %s has no rule %q", r.chain, r.text)
		}
	}
	if n := strings.Count(text, "\n\t\t"); n == 0 {
		t.Error("no rules at all")
	}
	for _, e := range []string{
		`tcp . 4000 comment "nslab test a" : 10.7.1.2 . 80`, `2001:db8::1 . udp . 5300 comment "nslab test a" : fd07:1::2 . 53`,
		`10.7.1.0/24 comment "nslab test net1"`, `"nbtest1" . "nbtest1" comment "nslab test net1"`,
	} {
		if !strings.Contains(text, e) {
			t.Errorf("no element %q", e)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
