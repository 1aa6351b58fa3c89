package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Port is a port of a container that is a port of the host, or several in a row.
type Port struct {
	Proto  string         // "tcp", "udp", "sctp"
	Host   netip.AddrPort // where it is published; without an address, or with 0.0.0.0 or ::, on all that the host has
	Target netip.AddrPort // the container's
	Count  int            // how many ports, from these two on; 0 is one
}

// The protocols that have ports in the place where TCP has them, and their numbers in /etc/protocols.
var protocols = [...]struct {
	name   string
	number byte
}{{"tcp", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}, {"sctp", unix.IPPROTO_SCTP}}

// protocol is a protocol's number, 0 for one that cannot be published.
func protocol(name string) byte {
	for _, p := range protocols {
		if p.name == name {
			return p.number
		}
	}
	return 0
}

// TakenError is a port of the host that is in use: by another container, which Owner names, or by a process.
type TakenError struct {
	Proto   string
	Addr    netip.AddrPort
	Owner   string
	Pid     int // 0 where it is not known
	Command string
}

func (e *TakenError) Error() string {
	what := fmt.Sprintf("09-network: publish %s/%s: %v", e.Addr, e.Proto, ErrTaken)
	switch {
	case e.Owner != "":
		return what + " by " + e.Owner
	case e.Pid != 0:
		return fmt.Sprintf("%s by %s (process %d)", what, e.Command, e.Pid)
	}
	return what
}

// Is makes it an ErrTaken.
func (e *TakenError) Is(target error) bool { return target == ErrTaken }

// element is one element of a set or map, as text and as bytes.
type element struct {
	set, owner string
	key, val   string // as the kernel has them
	end        string // the first key behind an interval
	text       string // as nft(8) writes it
	port       Port
	net        netip.Prefix
}

// id tells elements apart: set and key.
func (e element) id() string { return e.set + "\x00" + e.key + "\x00" + e.end }

// nft is the element for the library: an interval is two, its begin and what is not in it any more.
func (e element) nft() []nftables.SetElement {
	list := []nftables.SetElement{{Key: []byte(e.key), Val: []byte(e.val), Comment: e.owner}}
	if e.end != "" {
		list = append(list, nftables.SetElement{Key: []byte(e.end), IntervalEnd: true})
	}
	return list
}

// elements are a network's.
func (n Network) elements() (list []element, err error) {
	if n.Bridge == "" || len(n.Bridge) >= unix.IFNAMSIZ {
		return nil, &Error{"add network", n.Bridge, unix.EINVAL}
	}
	name := interfaceKey(n.Bridge)
	add := func(set, key, text string) {
		list = append(list, element{set: set, owner: n.Owner, key: key, text: text})
	}
	add(setBridges, name, n.Bridge)
	add(setSame, name+name, n.Bridge+" . "+n.Bridge)
	if n.Internal {
		add(setInternal, name, n.Bridge)
	}
	for _, p := range n.Subnets {
		nets, masq := setNets4, setMasq4
		if p.Addr().Is6() {
			nets, masq = setNets6, setMasq6
		}
		e := element{set: nets, owner: n.Owner, key: string(p.Masked().Addr().AsSlice()), end: behind(p), text: p.Masked().String(), net: p.Masked()}
		list = append(list, e)
		if n.Masquerade {
			e.set = masq
			list = append(list, e)
		}
	}
	return list, nil
}

func interfaceKey(name string) string { return name + strings.Repeat("\x00", unix.IFNAMSIZ-len(name)) }

// behind is the first address after a subnet.
func behind(p netip.Prefix) string {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return string(last.Next().AsSlice()) // nobody's subnet ends with the last address of all
}

// portElements are what publishes ports: one element for each.
func portElements(owner string, ports []Port) (list []element, err error) {
	for _, p := range ports {
		proto := protocol(p.Proto)
		count := max(p.Count, 1)
		host := p.Host.Addr()
		switch {
		case proto == 0:
			return nil, &Error{"publish " + p.Proto, p.Host.String(), unix.EPROTONOSUPPORT}
		case host.IsValid() && host.Is4() != p.Target.Addr().Is4():
			return nil, &Error{"publish " + p.Host.String() + " as", p.Target.String(), ErrFamily}
		case !p.Target.IsValid(), p.Host.Port() == 0, p.Target.Port() == 0,
			int(p.Host.Port())+count > 1<<16, int(p.Target.Port())+count > 1<<16:
			return nil, &Error{"publish " + p.Host.String() + " as", p.Target.String(), unix.EINVAL}
		}
		for i := range count {
			one := Port{p.Proto, netip.AddrPortFrom(host, p.Host.Port()+uint16(i)), netip.AddrPortFrom(p.Target.Addr(), p.Target.Port()+uint16(i)), 0}
			list = append(list, one.element(owner, proto))
		}
	}
	return list, nil
}

// element is that of a single port.
func (p Port) element(owner string, proto byte) element {
	e := element{set: mapAny4, owner: owner, port: p}
	var key []byte
	text := fmt.Sprintf("%s . %d", p.Proto, p.Host.Port())
	all := !p.Host.Addr().IsValid() || p.Host.Addr().IsUnspecified()
	if !all {
		key = p.Host.Addr().AsSlice()
		text = p.Host.Addr().String() + " . " + text
	}
	switch v6 := p.Target.Addr().Is6(); {
	case all && v6:
		e.set = mapAny6
	case v6:
		e.set = mapPorts6
	case !all:
		e.set = mapPorts4
	}
	e.key = string(append(append(key, proto, 0, 0, 0), portKey(p.Host.Port())...))
	e.val = string(append(p.Target.Addr().AsSlice(), portKey(p.Target.Port())...))
	e.text = fmt.Sprintf("%s : %s . %d", text, p.Target.Addr(), p.Target.Port())
	return e
}

// portKey is a port as part of a key, which takes whole pieces of four bytes.
func portKey(port uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, port), 0, 0) }

// elementsOf reads what the kernel has in a set.
func elementsOf(s *nftables.Set, all []nftables.SetElement) (list []element) {
	if s.Interval {
		return intervals(s, all)
	}
	for _, a := range all {
		e := element{set: s.Name, owner: a.Comment, key: string(a.Key), val: string(a.Val)}
		if s.IsMap {
			e.port = portOf(a.Key, a.Val)
			e.text = e.port.element("", protocol(e.port.Proto)).text
		} else {
			e.text = string(bytes.TrimRight(a.Key[:unix.IFNAMSIZ], "\x00"))
			if len(a.Key) > unix.IFNAMSIZ {
				e.text += " . " + e.text
			}
		}
		list = append(list, e)
	}
	return list
}

// intervals pairs begins and ends: the end of one is the nearest behind it.
func intervals(s *nftables.Set, all []nftables.SetElement) (list []element) {
	for _, a := range all {
		if a.IntervalEnd {
			continue
		}
		e := element{set: s.Name, owner: a.Comment, key: string(a.Key)}
		for _, b := range all {
			if k := string(b.Key); b.IntervalEnd && k > e.key && (e.end == "" || k < e.end) {
				e.end = k
			}
		}
		addr, _ := netip.AddrFromSlice(a.Key)
		for bits := range addr.BitLen() + 1 {
			if p := netip.PrefixFrom(addr, bits); p.Masked() == p && behind(p) == e.end {
				e.net, e.text = p, p.String()
				break
			}
		}
		list = append(list, e)
	}
	return list
}

// portOf reads an element of one of the maps.
func portOf(key, val []byte) (p Port) {
	const service = 8 // protocol and port
	host, _ := netip.AddrFromSlice(key[:len(key)-service])
	target, _ := netip.AddrFromSlice(val[:len(val)-4])
	tail := key[len(key)-service:]
	for _, known := range protocols {
		if known.number == tail[0] {
			p.Proto = known.name
		}
	}
	p.Host = netip.AddrPortFrom(host, binary.BigEndian.Uint16(tail[4:]))
	p.Target = netip.AddrPortFrom(target, binary.BigEndian.Uint16(val[len(val)-4:]))
	return p
}

// rulesOf puts elements together again.
func rulesOf(all []element) Rules {
	r := Rules{Ports: map[string][]Port{}}
	networks := map[string]*Network{}
	slices.SortFunc(all, func(a, b element) int { return strings.Compare(a.id(), b.id()) })
	for _, e := range all {
		if e.port.Proto != "" {
			r.Ports[e.owner] = append(r.Ports[e.owner], e.port)
			continue
		}
		n := networks[e.owner]
		if n == nil {
			n = &Network{Owner: e.owner}
			networks[e.owner] = n
		}
		switch e.set {
		case setBridges:
			n.Bridge = e.text
		case setInternal:
			n.Internal = true
		case setNets4, setNets6:
			n.Subnets = append(n.Subnets, e.net)
		case setMasq4, setMasq6:
			n.Masquerade = true
		}
	}
	for _, n := range networks {
		r.Networks = append(r.Networks, *n)
	}
	slices.SortFunc(r.Networks, func(a, b Network) int { return strings.Compare(a.Owner, b.Owner) })
	return r
}

// changeText writes a transaction as nft(8) would be given it, shortened where it is long.
func changeText(table string, del, add []element) string {
	var names, parts []string
	for _, c := range []struct {
		name, verb string
		list       []element
	}{{"NFT_MSG_DELSETELEM", "delete", del}, {"NFT_MSG_NEWSETELEM", "add", add}} {
		if len(c.list) == 0 {
			continue
		}
		names = append(names, c.name)
		var sets []string
		for _, e := range c.list {
			if !slices.Contains(sets, e.set) {
				sets = append(sets, e.set)
			}
		}
		for _, set := range sets {
			parts = append(parts, fmt.Sprintf("%s element inet %s %s { %s }", c.verb, table, set, elementText(set, c.list)))
		}
	}
	return "sendmsg(" + strings.Join(names, ", ") + ": nft " + strings.Join(parts, "; ") + ")"
}

func elementText(set string, list []element) string {
	const most = 3
	var texts []string
	for _, e := range list {
		if e.set == set {
			texts = append(texts, e.text)
		}
	}
	if n := len(texts); n > most {
		texts = append(texts[:most], fmt.Sprintf("… %d more", n-most))
	}
	return strings.Join(texts, ", ")
}
