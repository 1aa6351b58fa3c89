package network

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	stage "github.com/nslab/nslab/labs/09-network"
)

// tables lists the firewall tables whose names begin like this.
func tables(prefix string) (names []string, err error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("list firewall tables: %w", err)
	}
	list, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list firewall tables: %w", err)
	}
	for _, t := range list {
		if strings.HasPrefix(t.Name, prefix) {
			names = append(names, t.Name)
		}
	}
	return names, nil
}

// exists tells whether the table of rules is there.
func (k kernel) exists() (bool, error) {
	list, err := tables(k.firewall().Table)
	return len(list) > 0, err
}

// redirect leads questions for names inside a container to the port at which the resolver listens.
func redirect(ctx context.Context, ns *stage.Namespace) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		return fmt.Errorf("lead questions to the resolver: %w", err)
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nslab-names"})
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	to := ResolverAddress.Addr().As4()
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Register: 1, Data: to[:]},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Register: 1, Data: binaryutil.BigEndian.PutUint16(ResolverAddress.Port())},
			&expr.Immediate{Register: 1, Data: to[:]},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(ResolverPort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("lead questions to the resolver: %w", err)
	}
	return nil
}
