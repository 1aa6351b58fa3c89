package network

import (
	"fmt"
	"net/netip"

	"github.com/nslab/nslab/course"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// town is a host with a network, a container, and a machine outside.
func town(t *course.T) (s *scene, box, out *pid.Box, err error) {
	if s, err = newScene(t); err != nil {
		return nil, nil, nil, err
	}
	if err = s.do(t.Untraced(), "09-forward", "on"); err != nil {
		return nil, nil, nil, err
	}
	if out, err = s.outside(); err != nil {
		return nil, nil, nil, err
	}
	if err = s.bridge(t.Untraced(), blue, blueGW); err != nil {
		return nil, nil, nil, err
	}
	box, err = s.container(t.Untraced(), "box", blue, "10.88.0.2", blueGW)
	return s, box, out, err
}

// wayOut: forwarding, and whose address the world sees.
func wayOut(t *course.T) error {
	s, box, out, err := town(t)
	if err != nil {
		return err
	}
	if _, err := out.Call(t.Untraced(), "09-serve", "udp", ":7"); err != nil {
		return err
	}
	ask := func(expect string) (said, heard string, err error) {
		if said, err = call(t, box, "udp", world+":7", expect); err != nil {
			return "", "", err
		}
		heard, err = out.Call(t.Untraced(), "09-heard")
		if heard == "" {
			heard = "–"
		}
		return said, heard, err
	}
	if err := s.do(t.Context(), "09-forward", "off"); err != nil {
		return err
	}
	said, heard, err := ask("silence")
	if err != nil {
		return err
	}
	t.See("the host does not forward: the container hears %s; the machine outside has heard from: %s", said, heard)
	t.Equal("–", heard, "a host that does not forward lets nothing through")

	if err := s.do(t.Context(), "09-forward", "on"); err != nil {
		return err
	}
	if said, heard, err = ask("silence"); err != nil {
		return err
	}
	t.See("it forwards: the container hears %s; the machine outside has heard from: %s", said, heard)
	t.Equal("10.88.0.2", heard, "the question arrives, and comes from the container's address")
	t.Equal("silence", said, "but the world knows no way back to that one")

	if err := s.allow(only(t, "NFT_MSG_NEW"), blue, blueNet); err != nil {
		return err
	}
	if said, heard, err = ask(""); err != nil {
		return err
	}
	t.See("with masquerading: the container hears that it is %s; the machine outside has heard from: %s", said, heard)
	t.Equal(router, heard, "now it comes from the host's address")
	t.Equal(router, said, "and the answer finds its way to the container")
	return nil
}

// published: a port of the host that is a container's.
func published(t *course.T) error {
	s, box, out, err := town(t)
	if err != nil {
		return err
	}
	if err := s.allow(t.Untraced(), blue, blueNet); err != nil {
		return err
	}
	other, err := s.container(t.Untraced(), "other", blue, "10.88.0.3", blueGW)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "09-serve", "tcp", ":80"); err != nil {
		return err
	}
	before, err := call(t, out, "tcp", router+":4000", "")
	if err != nil {
		return err
	}
	t.See("port 4000 of the host, before: %s", before)
	t.Equal("ECONNREFUSED", before, "nobody listens there")
	port := Port{Proto: "tcp", Host: netip.AddrPortFrom(netip.IPv4Unspecified(), 4000), Target: netip.MustParseAddrPort("10.88.0.2:80")}
	if err := s.do(t.Context(), "09-publish", "add", "nslab lab box", encoded([]Port{port})); err != nil {
		return err
	}
	listening, err := lines(s.host.Pid(), "tcp", fmt.Sprintf(":%04X", 4000))
	if err != nil {
		return err
	}
	t.See("sockets with port 4000 in the host's /proc/%s/net/tcp: %s", str(s.host.Pid()), str(listening))
	t.Equal(0, listening, "still nobody listens there: the kernel rewrites addresses")
	for _, c := range []struct {
		from            *pid.Box
		who, addr, want string
		check           string
	}{
		{out, "outside", router + ":4000", world, "from outside, and the container sees who calls"},
		{s.host, "host", router + ":4000", router, "from the host, by its own address"},
		{s.host, "host", "127.0.0.1:4000", blueGW, "from the host, by 127.0.0.1: the container sees the bridge"},
		{other, "another container", router + ":4000", blueGW, "from another container"},
		{box, "the container", router + ":4000", blueGW, "from the container itself"},
	} {
		said, err := call(t, c.from, "tcp", c.addr, "")
		if err != nil {
			return err
		}
		t.See("%s calls %s; the server in the container sees: %s", c.who, c.addr, said)
		t.Equal(c.want, said, c.check)
	}
	if err := s.do(t.Context(), "09-publish", "remove", "nslab lab box"); err != nil {
		return err
	}
	after, err := call(t, out, "tcp", router+":4000", "")
	if err != nil {
		return err
	}
	t.See("taken back, port 4000 says: %s", after)
	t.Equal("ECONNREFUSED", after, "what was published can be taken back")
	return nil
}

// loopbackOfHost: what route_localnet opens, and the rule that closes it.
func loopbackOfHost(t *course.T) error {
	s, box, _, err := town(t)
	if err != nil {
		return err
	}
	if err := s.allow(t.Untraced(), blue, blueNet); err != nil {
		return err
	}
	if _, err := s.host.Call(t.Untraced(), "09-serve", "udp", "127.0.0.1:53"); err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "09-lose-lo", blueGW); err != nil {
		return err
	}
	attack := func(expect string) (heard string, err error) {
		if _, err := call(t, box, "udp", "127.0.0.1:53", expect); err != nil {
			return "", err
		}
		if expect == "" { // the answer has no way back; what was heard counts
			t.Await(awhile, func() bool {
				heard, err = s.host.Call(t.Untraced(), "09-heard")
				return heard != "" || err != nil
			})
			return heard, err
		}
		heard, err = s.host.Call(t.Untraced(), "09-heard")
		if heard == "" {
			heard = "–"
		}
		return heard, err
	}
	with, err := attack("silence")
	if err != nil {
		return err
	}
	t.See("root in a container sends to 127.0.0.1 of the host; a server there has heard from: %s", with)
	t.Equal("–", with, "nslab's table lets nothing from a bridge to 127.0.0.1")
	if err := s.do(t.Context(), "09-network", "remove"); err != nil {
		return err
	}
	without, err := attack("")
	if err != nil {
		return err
	}
	t.See("without the table it has heard from: %s", without)
	t.Equal("10.88.0.2", without, "without that rule it would have arrived: CVE-2020-8558")
	return nil
}

// isolated: two networks on one host.
func isolated(t *course.T) error {
	s, box, _, err := town(t)
	if err != nil {
		return err
	}
	if err := s.bridge(t.Untraced(), green, greenGW); err != nil {
		return err
	}
	stranger, err := s.container(t.Untraced(), "stranger", green, "10.99.0.2", greenGW)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "09-serve", "tcp", ":80"); err != nil {
		return err
	}
	said, err := call(t, stranger, "tcp", "10.88.0.2:80", "")
	if err != nil {
		return err
	}
	t.See("two bridges on a host that forwards; from one network to a container of the other: %s", said)
	t.Equal("10.99.0.2", said, "a host that forwards joins all its networks")
	for _, n := range []struct {
		b      Bridge
		subnet string
	}{{blue, blueNet}, {green, greenNet}} {
		if err := s.allow(only(t, "NFT_MSG_NEWSETELEM"), n.b, n.subnet); err != nil {
			return err
		}
	}
	if said, err = call(t, stranger, "tcp", "10.88.0.2:80", "silence"); err != nil {
		return err
	}
	t.See("with both in nslab's table: %s", said)
	t.Equal("silence", said, "to a container's own address nothing comes from another network")
	port := Port{Proto: "tcp", Host: netip.AddrPortFrom(netip.IPv4Unspecified(), 4000), Target: netip.MustParseAddrPort("10.88.0.2:80")}
	if err := s.do(t.Context(), "09-publish", "add", "nslab lab box", encoded([]Port{port})); err != nil {
		return err
	}
	if said, err = call(t, stranger, "tcp", router+":4000", ""); err != nil {
		return err
	}
	t.See("by the published port of the host: %s", said)
	t.Equal(blueGW, said, "what is published is there for everybody")
	return nil
}
