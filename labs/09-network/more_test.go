package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

func TestNames(t *testing.T) {
	a, b := LinkName('b', "3f9c02", "one"), LinkName('v', "3f9c02", "one")
	if len(a) != 15 || !strings.HasPrefix(a, "nb3f9c02") || a[1:] == b[1:] || a[2:] != b[2:] {
		t.Errorf("LinkName = %q, %q; want 15 characters that differ in the second", a, b)
	}
	if got := MAC(netip.MustParseAddr("172.17.0.2")).String(); got != "02:42:ac:11:00:02" {
		t.Errorf("MAC(172.17.0.2) = %s", got)
	}
}

func TestPortElements(t *testing.T) {
	ap := netip.MustParseAddrPort
	for _, p := range []Port{
		{Proto: "icmp", Host: ap("0.0.0.0:1"), Target: ap("10.0.0.1:1")},
		{Proto: "tcp", Host: ap("0.0.0.0:0"), Target: ap("10.0.0.1:1")},
		{Proto: "tcp", Host: ap("0.0.0.0:65535"), Target: ap("10.0.0.1:1"), Count: 2},
		{Proto: "tcp", Host: ap("[::]:1"), Target: ap("10.0.0.1:1")},
		{Proto: "tcp", Host: ap("0.0.0.0:1")},
	} {
		if list, err := portElements("x", []Port{p}); err == nil {
			t.Errorf("portElements(%+v) = %v; want an error", p, list)
		}
	}
	list, err := portElements("x", []Port{{Proto: "udp", Host: ap("127.0.0.1:65530"), Target: ap("10.0.0.1:65530"), Count: 6}})
	if err != nil || len(list) != 6 || list[5].text != "127.0.0.1 . udp . 65535 : 10.0.0.1 . 65535" || list[5].set != mapPorts4 {
		t.Errorf("portElements of a range = %+v, %v", list, err)
	}
}

// TestTwice: everything may be made twice, and removed twice.
func TestTwice(t *testing.T) {
	ctx, w := newWorld(t, false)
	b := Bridge{Name: "nbtest1", Owner: testOwner + "net1", Addresses: prefixes("10.7.1.1/24", "fd07:1::1/64")}
	for range 2 {
		must(t, b.Make(ctx))
		must(t, w.fw.AddNetwork(ctx, w.net1))
	}
	links, err := Links(ctx, testOwner)
	if err != nil || len(links) != 6 {
		t.Errorf("Links = %+v, %v; want two bridges and four wires", links, err)
	}
	e := Endpoint{Name: "nvtesta", Owner: testOwner + "a", Bridge: "nbtest1", Inside: "eth0", Addresses: prefixes("10.7.1.2/24")}
	must(t, e.Attach(ctx, newNamespace(t))) // a new life, under the old name
	for range 2 {
		must(t, e.Detach(ctx))
		must(t, w.fw.RemoveNetwork(ctx, w.net1))
	}
	stranger := b
	stranger.Owner = "somebody"
	if err := stranger.Make(ctx); !errors.Is(err, ErrNotOurs) {
		t.Errorf("making somebody else's bridge: %v; want ErrNotOurs", err)
	}
	if err := stranger.Remove(ctx); !errors.Is(err, ErrNotOurs) {
		t.Errorf("removing somebody else's bridge: %v; want ErrNotOurs", err)
	}
	for range 2 {
		must(t, b.Remove(ctx))
		must(t, w.fw.Remove(ctx))
	}
	if r, err := w.fw.Read(ctx); err != nil || len(r.Networks)+len(r.Ports) > 0 {
		t.Errorf("Read without a table = %+v, %v; want nothing", r, err)
	}
}

// TestAttachUndone: a wire that cannot be arranged leaves nothing.
func TestAttachUndone(t *testing.T) {
	ctx, w := newWorld(t, false)
	before, err := Links(ctx, "")
	must(t, err)
	ns := newNamespace(t)
	for _, e := range []Endpoint{
		{Name: "nvbad", Owner: "x", Bridge: "nosuchbridge", Inside: "eth0", Addresses: prefixes("10.7.1.9/24")},
		{Name: "nvbad", Owner: "x", Bridge: "nbtest1", Inside: "eth0", Addresses: prefixes("10.7.1.9/24"),
			Gateways: []netip.Addr{netip.MustParseAddr("10.99.0.1")}},
		{Name: "nvbad", Owner: "x", Bridge: "nbtest1", Inside: "lo", Addresses: prefixes("10.7.1.9/24")},
	} {
		if err := e.Attach(ctx, ns); err == nil {
			t.Errorf("Attach(%+v) = nil; want an error", e)
		}
	}
	after, err := Links(ctx, "")
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("links before %v, after %v, %v", before, after, err)
	}
	_ = w
}

func TestSync(t *testing.T) {
	ctx, w := newWorld(t, false)
	ap := netip.MustParseAddrPort
	must(t, w.fw.Publish(ctx, testOwner+"a",
		Port{Proto: "tcp", Host: ap("0.0.0.0:4000"), Target: ap("10.7.1.2:80"), Count: 600},
		Port{Proto: "tcp", Host: ap("[2001:db8::1]:4000"), Target: ap("[fd07:1::2]:80")}))
	r, err := w.fw.Read(ctx)
	must(t, err)
	if len(r.Networks) != 2 || !reflect.DeepEqual(r.Networks[0], w.net1) || len(r.Ports[testOwner+"a"]) != 601 {
		t.Errorf("Read = %+v and %d ports; want what was put in", r.Networks, len(r.Ports[testOwner+"a"]))
	}
	if changed, err := w.fw.Sync(ctx, r); changed || err != nil {
		t.Errorf("Sync with what is there = %t, %v; want no change", changed, err)
	}
	must(t, w.fw.Remove(ctx)) // nft flush ruleset
	if ok, err := w.fw.Exists(ctx); ok || err != nil {
		t.Errorf("Exists = %t, %v after Remove", ok, err)
	}
	if changed, err := w.fw.Sync(ctx, r); !changed || err != nil {
		t.Errorf("Sync after the table was removed = %t, %v", changed, err)
	}
	again, err := w.fw.Read(ctx)
	if err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("after Sync: %v; want what there was", err)
	}
	r.Ports = nil
	r.Networks[0].Masquerade = false
	if changed, err := w.fw.Sync(ctx, r); !changed || err != nil {
		t.Errorf("Sync with less = %t, %v", changed, err)
	}
	if again, _ = w.fw.Read(ctx); len(again.Ports) != 0 || again.Networks[0].Masquerade {
		t.Errorf("after Sync with less: %+v", again)
	}
}

func TestTaken(t *testing.T) {
	ctx, w := newWorld(t, false)
	ap := netip.MustParseAddrPort
	p := Port{Proto: "tcp", Host: ap("0.0.0.0:4000"), Target: ap("10.7.1.2:80")}
	must(t, w.fw.Publish(ctx, "a", p))
	other := Port{Proto: "tcp", Host: ap("0.0.0.0:3999"), Target: ap("10.7.1.3:80"), Count: 2}
	err := w.fw.Publish(ctx, "b", other)
	if taken, ok := errors.AsType[*TakenError](err); !ok || taken.Owner != "a" || taken.Addr.Port() != 4000 {
		t.Errorf("publishing another's port: %v; want a TakenError that names a and 4000", err)
	}
	if r, _ := w.fw.Read(ctx); len(r.Ports["b"]) != 0 {
		t.Errorf("half of a range was published: %v", r.Ports)
	}
	p.Target = ap("10.7.1.9:80")
	must(t, w.fw.Publish(ctx, "a", p)) // its own: replaced
	if r, _ := w.fw.Read(ctx); len(r.Ports["a"]) != 1 || r.Ports["a"][0].Target != p.Target {
		t.Errorf("publishing one's own port again: %v", r.Ports)
	}
	must(t, w.fw.Unpublish(ctx, "a", other)) // does not know what it had
	if r, _ := w.fw.Read(ctx); len(r.Ports) != 0 {
		t.Errorf("after Unpublish: %v", r.Ports)
	}

	h, err := Hold(ctx, "tcp", ap("127.0.0.1:0"))
	must(t, err)
	defer h.Close()
	_, err = Hold(ctx, "tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), h.Addr().Port()))
	if taken, ok := errors.AsType[*TakenError](err); !ok || taken.Pid != unix.Getpid() || !errors.Is(err, ErrTaken) {
		t.Errorf("holding a port twice: %v; want a TakenError that names this process", err)
	}
	for _, proto := range []string{"tcp", "udp", "sctp"} {
		for _, addr := range []string{"0.0.0.0:0", "[::]:0", "[::1]:0"} {
			h, err := Hold(ctx, proto, ap(addr))
			if err != nil || h.File() != nil && h.Addr().Port() == 0 {
				t.Errorf("Hold(%s, %s) = %v, %v", proto, addr, h, err)
				continue
			}
			h.Close()
		}
	}
}

// TestRelay: what the kernel does not rewrite, ::1 for a container, is carried. It needs no namespace: a relay's sockets are
// made by whatever thread is at it.
func TestRelay(t *testing.T) {
	for _, proto := range []string{"tcp", "udp"} {
		var target string
		if proto == "tcp" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			target = l.Addr().String()
			l.Close()
		} else {
			c, err := net.ListenPacket("udp", "127.0.0.1:0")
			must(t, err)
			target = c.LocalAddr().String()
			c.Close()
		}
		h, err := Hold(t.Context(), proto, netip.MustParseAddrPort("[::1]:0"))
		must(t, err)
		again, err := HeldFile(proto, h.File())
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- again.Relay(ctx, netip.MustParseAddrPort(target)) }()
		if got := dial(t, nil, proto, h.Addr().String()); strings.HasPrefix(got, "127") {
			t.Errorf("%s: answered for %s, and nobody is there", proto, got)
		}
		serve(t, nil, proto, target)
		want{nil, proto, h.Addr().String(), "127.0.0.1"}.check(t, "::1")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestLoopbackOfTheHost is CVE-2020-8558: 127.0.0.1 of the host is not a container's.
func TestLoopbackOfTheHost(t *testing.T) {
	ctx, w := newWorld(t, false)
	got := make(chan string, 10)
	for _, addr := range []string{"127.0.0.1:53", "10.7.1.1:53"} {
		c, err := net.ListenPacket("udp4", addr)
		must(t, err)
		defer c.Close()
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				got <- string(buf[:n]) + " from " + from.String()
			}
		}()
	}
	in(t, w.a, func() error {
		// A route to 127/8 by the bridge, and no local one, as root in a container can make them.
		h, err := socket()
		if err != nil {
			return err
		}
		defer h.Close()
		for _, s := range []string{"ipv4/conf/eth0/route_localnet", "ipv4/conf/all/route_localnet"} {
			if err := sysctl(ctx, s, "1"); err != nil {
				return err
			}
		}
		for _, args := range [][]string{
			{"route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"},
			{"route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"},
			{"route", "add", "127.0.0.0/8", "via", "10.7.1.1", "dev", "eth0"},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Logf("ip %v: %s", args, out)
			}
		}
		for _, to := range []string{"127.0.0.1:53", "10.7.1.1:53"} {
			c, err := net.Dial("udp4", to)
			if err != nil {
				return err
			}
			c.Write([]byte(to))
			c.Close()
		}
		return nil
	})
	if first := <-got; !strings.HasPrefix(first, "10.7.1.1:53") {
		t.Errorf("the host has got %s", first)
	}
	select {
	case more := <-got:
		t.Errorf("the host has got %s", more)
	case <-time.After(300 * time.Millisecond):
	}
	must(t, w.fw.Remove(ctx)) // and it was the firewall that kept it away
	in(t, w.a, func() error {
		c, err := net.Dial("udp4", "127.0.0.1:53")
		if err == nil {
			c.Write([]byte("127.0.0.1:53"))
			c.Close()
		}
		return err
	})
	select {
	case <-got:
	case <-time.After(3 * time.Second):
		t.Error("even without the firewall nothing arrives, so the test shows nothing")
	}
}

func TestObstacles(t *testing.T) {
	ctx, _ := newWorld(t, false)
	unmet := func() (list []string) {
		all, err := Obstacles(ctx)
		must(t, err)
		for _, c := range all {
			if !c.OK {
				list = append(list, c.Detail)
			}
		}
		return list
	}
	if got := unmet(); len(got) > 0 {
		t.Errorf("obstacles in an empty host: %q", got)
	}
	run := func(name string, args ...string) bool {
		if _, err := exec.LookPath(name); err != nil {
			coursetest.Missing(t, name)
			return false
		}
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Errorf("%s %q: %s", name, args, out)
		}
		return err == nil
	}
	if run("iptables-legacy", "-P", "FORWARD", "DROP") {
		if got := unmet(); !slices.Contains(got, legacyFilter) {
			t.Errorf("with iptables-legacy's policy DROP: %q", got)
		}
		run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
	}
	run("iptables-nft", "-P", "FORWARD", "DROP")
	if got := unmet(); !slices.Contains(got, iptablesFilter) {
		t.Errorf("with iptables' policy DROP: %q", got)
	}
	run("iptables-nft", "-I", "FORWARD", "-i", "nb+", "-j", "ACCEPT")
	if got := unmet(); len(got) > 0 {
		t.Errorf("with a rule that lets our bridges through: %q", got)
	}
	must(t, SetForwarding(ctx, false, false))
	if got := unmet(); !slices.Contains(got, "net.ipv4.ip_forward = 0") {
		t.Errorf("without forwarding: %q", got)
	}
}

func TestRedirect(t *testing.T) {
	ctx, w := newWorld(t, false)
	serve(t, w.a, "udp", "127.0.0.11:5353")
	serve(t, w.a, "tcp", "127.0.0.11:5353")
	for range 2 {
		must(t, Redirect(ctx, w.a, netip.MustParseAddrPort("127.0.0.11:53"), 5353))
	}
	want{w.a, "udp", "127.0.0.11:53", "127.0.0.1"}.check(t, "name server")
	want{w.a, "tcp", "127.0.0.11:53", "127.0.0.1"}.check(t, "name server")
	want{w.b, "tcp", "127.0.0.11:53", "refused"}.check(t, "another container's")
}

// TestForgetFlows: a UDP flow keeps its old container until it is forgotten.
func TestForgetFlows(t *testing.T) {
	ctx, w := newWorld(t, false)
	serve(t, w.a, "udp4", "0.0.0.0:53")
	ap := netip.MustParseAddrPort
	must(t, w.fw.Publish(ctx, "a", Port{Proto: "udp", Host: ap("0.0.0.0:53"), Target: ap("10.7.1.2:53")}))
	var c net.Conn
	in(t, w.outside, func() (err error) { c, err = net.Dial("udp", "192.0.2.1:53"); return err })
	defer c.Close()
	ask := func() bool {
		c.Write([]byte("x"))
		c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, err := c.Read(make([]byte, 100))
		return err == nil
	}
	if !ask() {
		t.Fatal("the port does not answer")
	}
	must(t, w.fw.Unpublish(ctx, "a"))
	if !ask() {
		t.Error("the flow has ended by itself, so the test shows nothing")
	}
	must(t, ForgetFlows(ctx, w.a4))
	if ask() {
		t.Error("the flow still reaches the container")
	}
}

// TestErrors: an ordinary user is told why.
func TestErrors(t *testing.T) {
	e := &Error{"create bridge", "x", unix.EPERM}
	if len(diagnosis.Of(e)) == 0 || !strings.Contains(e.Error(), "09-network: create bridge x: operation not permitted") {
		t.Errorf("%v: %v", e, diagnosis.Of(e))
	}
}

// TestTrace: what is shown is what nft(8) would be told.
func TestTrace(t *testing.T) {
	ctx := newHost(t)
	var texts []string
	ctx = trace.With(ctx, func(r trace.Record) { texts = append(texts, r.Text) })
	ap := netip.MustParseAddrPort
	must(t, Firewall{Table: "nslab-test"}.Publish(ctx, "a", Port{Proto: "tcp", Host: ap("0.0.0.0:4000"), Target: ap("10.7.1.2:80")}))
	const want = "sendmsg(NFT_MSG_NEWSETELEM: nft add element inet nslab-test any4 { tcp . 4000 : 10.7.1.2 . 80 })"
	if len(texts) != 3 || texts[2] != want || texts[0] != want || !strings.Contains(texts[1], "create table inet nslab-test") {
		t.Errorf("traced %q; want the attempt, the table, and %q", texts, want)
	}
}
