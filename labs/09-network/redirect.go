package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// redirectTable is the table that [Redirect] makes. It is in the container's namespace, which has no other of nslab's.
const redirectTable = "nslab-redirect"

// Redirect sends what programs in a namespace send to an address and port, by TCP or UDP, to another port of the same address.
// It is for a name server, which they expect at port 53: that port stays the container's own. It replaces an earlier one.
func Redirect(ctx context.Context, ns *Namespace, from netip.AddrPort, port uint16) error {
	if !from.Addr().Is4() {
		return &Error{"redirect", from.String(), ErrFamily}
	}
	f := Firewall{Table: redirectTable}
	return ns.Do(ctx, func(ctx context.Context) error {
		err := f.commit(ctx,
			func() string {
				return fmt.Sprintf("sendmsg(NFT_MSG_NEWTABLE, NFT_MSG_NEWRULE: nft add rule inet %s output ip daddr %s th dport %d dnat ip to :%d)",
					f.Table, from.Addr(), from.Port(), port)
			},
			func(c *nftables.Conn) error {
				c.AddTable(f.table()) // or there would be nothing to delete, which is an error
				c.DelTable(f.table())
				t := c.AddTable(f.table())
				priority := nftables.ChainPriority(-100)
				out := c.AddChain(&nftables.Chain{
					Table: t, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: &priority,
				})
				for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
					c.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: redirect(proto, from, port)})
				}
				return nil
			})
		if err != nil {
			return &Error{"redirect", from.String(), err}
		}
		return nil
	})
}

func redirect(proto byte, from netip.AddrPort, port uint16) (list []expr.Any) {
	number := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	list = append(list, family(unix.NFPROTO_IPV4)...)
	list = append(list, equal(header(in4, 4), from.Addr().AsSlice()...)...)
	list = append(list, equal(meta(expr.MetaKeyL4PROTO), proto)...)
	list = append(list, equal([]expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: reg},
	}, number(from.Port())...)...)
	return append(list,
		&expr.Immediate{Register: reg, Data: from.Addr().AsSlice()},
		&expr.Immediate{Register: piece + 1, Data: number(port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg, RegProtoMin: piece + 1, Specified: true})
}
