package network

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table's rules. They are the same on every machine and never change: what differs, the networks and the published ports,
// is in sets and maps that the rules look into. So the kernel takes the same time for a thousand ports as for one, where a
// list of rules would be walked for each new connection; and a container comes or goes by a change of elements, which other
// containers do not notice. Each rule stands here twice, as nft(8) writes it and as the kernel takes it: a list of small
// instructions over registers. A test has nft(8) compare the two.
//
// If these are changed, the table has to have another name (see [TableName]): one that is there is taken as it is.

// The sets and maps.
const (
	setBridges  = "bridges"  // the networks' bridges
	setInternal = "internal" // those of them that have no way out
	setSame     = "same"     // each bridge paired with itself: nft cannot compare two interfaces with each other
	setNets4    = "nets4"    // the networks' subnets
	setNets6    = "nets6"
	setMasq4    = "masq4" // those of them whose addresses the world does not know
	setMasq6    = "masq6"
	mapPorts4   = "ports4" // published on one address of the host
	mapPorts6   = "ports6"
	mapAny4     = "any4" // published on all
	mapAny6     = "any6"
)

// newSets describes them to the kernel. The library numbers a set when it is added, so each transaction has its own.
func newSets(t *nftables.Table) []*nftables.Set {
	service := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	concat := nftables.MustConcatSetType
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: key}
	}
	subnets := func(name string, key nftables.SetDatatype) *nftables.Set {
		s := set(name, key)
		s.Interval = true
		return s
	}
	ports := func(name string, addr nftables.SetDatatype, key ...nftables.SetDatatype) *nftables.Set {
		s := set(name, concat(append(key, service...)...))
		s.IsMap, s.Concatenation = true, true
		s.DataType = concat(addr, nftables.TypeInetService)
		return s
	}
	names := set(setSame, concat(nftables.TypeIFName, nftables.TypeIFName))
	names.Concatenation = true
	return []*nftables.Set{
		set(setBridges, nftables.TypeIFName), set(setInternal, nftables.TypeIFName), names,
		subnets(setNets4, nftables.TypeIPAddr), subnets(setNets6, nftables.TypeIP6Addr),
		subnets(setMasq4, nftables.TypeIPAddr), subnets(setMasq6, nftables.TypeIP6Addr),
		ports(mapPorts4, nftables.TypeIPAddr, nftables.TypeIPAddr), ports(mapPorts6, nftables.TypeIP6Addr, nftables.TypeIP6Addr),
		ports(mapAny4, nftables.TypeIPAddr), ports(mapAny6, nftables.TypeIP6Addr),
	}
}

// newChains are the places at which the kernel asks the table, and two that are jumped to. Those with a hook let pass whatever
// no rule of theirs has decided.
func newChains(t *nftables.Table) []*nftables.Chain {
	hook := func(name string, kind nftables.ChainType, at *nftables.ChainHook, priority int) *nftables.Chain {
		p := nftables.ChainPriority(priority)
		return &nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: at, Priority: &p}
	}
	return []*nftables.Chain{
		{Table: t, Name: "publish"}, {Table: t, Name: "toward"}, {Table: t, Name: "admit"}, // first, since the others jump there
		hook("martians", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300), // before addresses are rewritten
		hook("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100),
		hook("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100),
		hook("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100),
		hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0),
	}
}

// rule is one of a chain.
type rule struct {
	chain, text string
	do          [][]expr.Any
}

const (
	in4, in6     = 16, 24 // where the destination stands in a packet's header
	from4, from6 = 12, 8  // and where the source
)

// rewritten is the mark of a connection whose destination is not the one that it was sent to: IPS_DST_NAT in
// linux/netfilter/nf_conntrack_common.h.
const rewritten = 1 << 5

// newRules are all rules, in order.
func newRules() []rule {
	var (
		ipv4, ipv6 = family(unix.NFPROTO_IPV4), family(unix.NFPROTO_IPV6)
		fromOurs   = lookup(meta(expr.MetaKeyIIFNAME), setBridges)
		toOurs     = lookup(meta(expr.MetaKeyOIFNAME), setBridges)
		drop       = verdict(expr.VerdictDrop, "")
		accept     = verdict(expr.VerdictAccept, "")
		ret        = verdict(expr.VerdictReturn, "")
		masquerade = []expr.Any{&expr.Masq{}}
		published  = status(rewritten, expr.CmpOpNeq)
	)
	rules := func(all ...[]expr.Any) [][]expr.Any { return all }
	return []rule{
		// A container that sends to 127.0.0.1 of the host, or pretends to come from there. The kernel would let it, since the
		// bridge's route_localnet is on.
		{"martians", "iifname @bridges ip daddr 127.0.0.0/8 drop", rules(fromOurs, ipv4, loopback(in4), drop)},
		{"martians", "iifname @bridges ip saddr 127.0.0.0/8 drop", rules(fromOurs, ipv4, loopback(from4), drop)},

		// Packets that come in. Those to 127.0.0.1 can only be somebody's on the same wire who means a port that is published
		// there for the host alone: they are not rewritten, and die as martians.
		{"prerouting", "ip daddr 127.0.0.0/8 return", rules(ipv4, loopback(in4), ret)},
		{"prerouting", "jump publish", rules(verdict(expr.VerdictJump, "publish"))},

		// Packets of the host itself. From ::1 nothing can leave the host, whatever it is rewritten to.
		{"output", "ip6 daddr ::1 return", rules(ipv6, loopback6(), ret)},
		{"output", "jump publish", rules(verdict(expr.VerdictJump, "publish"))},

		// A connection to a published port of one of the host's addresses gets the container's address and port. Only then:
		// a container that talks to port 80 of some other machine means that one.
		{"publish", "fib daddr type != local return", rules(notLocal(), ret)},
		{"publish", "dnat ip to ip daddr . meta l4proto . th dport map @ports4", rules(ipv4, rewrite4(mapPorts4, true))},
		{"publish", "meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any4", rules(ipv4, rewrite4(mapAny4, false))},
		{"publish", "dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6", rules(ipv6, rewrite6(mapPorts6, true))},
		{"publish", "meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @any6", rules(ipv6, rewrite6(mapAny6, false))},

		// What leaves the host from a container gets the host's address, since nobody outside knows the way to the container's.
		{"postrouting", "oifname @bridges goto toward", rules(toOurs, verdict(expr.VerdictGoto, "toward"))},
		{"postrouting", "ip saddr @masq4 masquerade", rules(ipv4, lookup(header(from4, 4), setMasq4), masquerade)},
		{"postrouting", "ip6 saddr @masq6 masquerade", rules(ipv6, lookup(header(from6, 16), setMasq6), masquerade)},

		// What goes to a container keeps its source, so that the container can log it, but for what was rewritten and whose
		// answer would not come back here: from the host's 127.0.0.1, which inside is the container, and from a container,
		// which may be on the same bridge or this very one. They would answer each other directly, and be taken for strangers.
		{"toward", "ct status ! dnat return", rules(status(rewritten, expr.CmpOpEq), ret)},
		{"toward", "ip saddr 127.0.0.0/8 masquerade", rules(ipv4, loopback(from4), masquerade)},
		{"toward", "ip saddr @nets4 masquerade", rules(ipv4, lookup(header(from4, 4), setNets4), masquerade)},
		{"toward", "ip6 saddr @nets6 masquerade", rules(ipv6, lookup(header(from6, 16), setNets6), masquerade)},

		// What the host forwards. Within one network everything goes (the firewall sees that only where br_netfilter is on); an
		// internal one has no way out; and to a container come only answers and what was published, from wherever: not what
		// another network's containers, or a neighbour of the host, send to its address.
		{"forward", "iifname . oifname @same accept", rules(sameBridge(), accept)},
		{"forward", "iifname @internal drop", rules(lookup(meta(expr.MetaKeyIIFNAME), setInternal), drop)},
		{"forward", "oifname @bridges goto admit", rules(toOurs, verdict(expr.VerdictGoto, "admit"))},
		{"admit", "ct state established,related accept", rules(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)},
		{"admit", "ct status dnat accept", rules(published, accept)},
		{"admit", "drop", rules(drop)},
	}
}

// The instructions. Register 1 has 16 bytes; 8 to 23 are the same memory in pieces of four, so 8 is where 1 begins. Each part
// of a key that is put together takes whole pieces.
const reg, piece = uint32(1), uint32(8)

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: reg}} }

func header(offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: reg}}
}

func equal(load []expr.Any, data ...byte) []expr.Any {
	return append(load, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data})
}

func lookup(load []expr.Any, set string) []expr.Any {
	return append(load, &expr.Lookup{SourceRegister: reg, SetName: set})
}

func family(f byte) []expr.Any { return equal(meta(expr.MetaKeyNFPROTO), f) }

// loopback is an IPv4 address that begins with 127.
func loopback(offset uint32) []expr.Any { return equal(header(offset, 1), 127) }

// loopback6 is the destination ::1.
func loopback6() []expr.Any {
	return equal(header(in6, 16), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
}

// notLocal is a destination that is none of the host's own addresses.
func notLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func sameBridge() []expr.Any {
	const second = 2 // a name has 16 bytes, which is the whole of the first register
	return lookup(append(meta(expr.MetaKeyIIFNAME), &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: second}), setSame)
}

func masked(key expr.CtKey, bits uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{
			SourceRegister: reg, DestRegister: reg, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: op, Register: reg, Data: make([]byte, 4)},
	}
}

func state(bits uint32) []expr.Any { return masked(expr.CtKeySTATE, bits, expr.CmpOpNeq) }

func status(bits uint32, op expr.CmpOp) []expr.Any { return masked(expr.CtKeySTATUS, bits, op) }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// service loads the protocol and the destination port, which stands at the same place in TCP, UDP and SCTP, as the next parts
// of a key.
func service(at uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: at + 1},
	}
}

// rewrite looks the destination up and replaces it. What is not in the map is left alone: a lookup that finds nothing ends
// the rule. addr is how many pieces an address takes.
func rewrite(set string, f byte, offset, addr uint32, byAddress bool) (list []expr.Any) {
	at := piece
	if byAddress {
		list = header(offset, 4*addr)
		at += addr
	}
	list = append(list, service(at)...)
	return append(list,
		&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: set},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f), RegAddrMin: reg, RegProtoMin: piece + addr, Specified: true})
}

func rewrite4(set string, byAddress bool) []expr.Any {
	return rewrite(set, unix.NFPROTO_IPV4, in4, 1, byAddress)
}

func rewrite6(set string, byAddress bool) []expr.Any {
	return rewrite(set, unix.NFPROTO_IPV6, in6, 4, byAddress)
}
