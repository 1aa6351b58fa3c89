package resolver

import (
	"bufio"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nslab/nslab/engine/network"
)

// Lookup is where answers come from.
type Lookup struct {
	Root, RunRoot string
	RunDir        string // of the container that asks
}

// lifetime is how long an answer about containers may be kept, in seconds. It is Docker's; musl and Go keep none anyway.
const lifetime = 600

// answer answers one message, or returns nil where there is nothing to say to it.
func (l Lookup) answer(query []byte, stream bool) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil || h.OpCode != 0 {
		return reply(h, nil, dnsmessage.RCodeFormatError, nil)
	}
	sandbox, err := network.LoadSandbox(l.RunDir)
	if err != nil || sandbox == nil {
		return reply(h, &q, dnsmessage.RCodeServerFailure, nil)
	}
	if q.Class == dnsmessage.ClassINET {
		if list, known := l.local(sandbox, q); known {
			return reply(h, &q, dnsmessage.RCodeSuccess, list)
		}
	}
	// A network without a way out has no way out by questions either.
	if sandbox.Gateway() != nil {
		for _, server := range servers(sandbox) {
			if a := ask(server, query, h.ID, stream); a != nil {
				return a
			}
		}
	}
	return reply(h, &q, dnsmessage.RCodeServerFailure, nil)
}

// local answers from what is known of the container's networks. A name that is known has perhaps no address of the kind that was
// asked for, which is an answer, too.
func (l Lookup) local(b *network.Sandbox, q dnsmessage.Question) (list []dnsmessage.ResourceBody, known bool) {
	store := network.Open(l.Root, l.RunRoot, nil)
	name := network.DNSName(q.Name.String())
	if q.Type == dnsmessage.TypePTR {
		a, ok := reverse(name)
		if !ok {
			return nil, false
		}
		for _, e := range b.Endpoints {
			if host := store.NameOf(e.NetworkID, a); host != "" {
				if n, err := dnsmessage.NewName(host + "." + e.Network + "."); err == nil {
					return []dnsmessage.ResourceBody{&dnsmessage.PTRResource{PTR: n}}, true
				}
			}
		}
		return nil, false
	}
	for _, e := range b.Endpoints {
		addresses := store.AddressesOf(e.NetworkID, strings.TrimSuffix(name, "."+strings.ToLower(e.Network)))
		if len(addresses) == 0 {
			addresses = store.AddressesOf(e.NetworkID, name)
		}
		rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
		for _, a := range addresses {
			known = true
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				list = append(list, &dnsmessage.AResource{A: a.As4()})
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				list = append(list, &dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
		if known {
			break
		}
	}
	return list, known
}

// reverse reads 2.0.18.172.in-addr.arpa and its like for IPv6.
func reverse(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		f := strings.Split(digits, ".")
		slices.Reverse(f)
		a, err := netip.ParseAddr(strings.Join(f, "."))
		return a, err == nil && a.Is4()
	}
	if digits, ok := strings.CutSuffix(name, ".ip6.arpa"); ok {
		f := strings.Split(digits, ".")
		slices.Reverse(f)
		var text strings.Builder
		for i, d := range f {
			if i > 0 && i%4 == 0 {
				text.WriteByte(':')
			}
			text.WriteString(d)
		}
		a, err := netip.ParseAddr(text.String())
		return a, err == nil && len(f) == 32
	}
	return netip.Addr{}, false
}

// reply puts an answer together.
func reply(h dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode, list []dnsmessage.ResourceBody) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, RCode: code,
	})
	b.EnableCompression()
	if q != nil {
		b.StartQuestions()
		b.Question(*q)
		b.StartAnswers()
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: lifetime}
		for _, body := range list {
			switch r := body.(type) {
			case *dnsmessage.AResource:
				b.AResource(head, *r)
			case *dnsmessage.AAAAResource:
				b.AAAAResource(head, *r)
			case *dnsmessage.PTRResource:
				b.PTRResource(head, *r)
			}
		}
	}
	data, err := b.Finish()
	if err != nil {
		return nil
	}
	return data
}

// servers are whom to ask: those of --dns, or the host's.
func servers(b *network.Sandbox) (list []string) {
	if len(b.Servers) > 0 {
		return b.Servers
	}
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan() && len(list) < 3; { // as many as resolv.conf(5) allows
		if w := strings.Fields(lines.Text()); len(w) > 1 && w[0] == "nameserver" {
			list = append(list, w[1])
		}
	}
	return list
}

// wait is how long a server has for its answer. Who asks us waits for five seconds: resolv.conf(5).
const wait = 2 * time.Second

// ask passes a question on as it is, and returns the answer as it is.
func ask(server string, query []byte, id uint16, stream bool) []byte {
	kind := "udp"
	if stream {
		kind = "tcp"
	}
	c, err := net.DialTimeout(kind, net.JoinHostPort(server, "53"), wait)
	if err != nil {
		return nil
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if stream {
		if writeFrame(c, query) != nil {
			return nil
		}
		a, _ := readFrame(c)
		return a
	}
	if _, err := c.Write(query); err != nil {
		return nil
	}
	buf := make([]byte, most)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil
		}
		// The socket is connected, so only the server can have sent this; perhaps it is late, and answers something else.
		var p dnsmessage.Parser
		if h, err := p.Start(buf[:n]); err == nil && h.Response && h.ID == id {
			return buf[:n]
		}
	}
}
