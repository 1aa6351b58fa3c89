package network

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/nslab/nslab/diagnosis"
)

// Obstacles looks for what on this host keeps a container's packets from getting through, although everything of nslab's is in
// place. Those that are not OK have a remedy.
//
// A table can let a packet pass only in its own name: all the tables that are asked have to agree. So nslab's table cannot
// undo what another one drops, and nslab does not touch tables that are not its own.
func Obstacles(ctx context.Context) ([]diagnosis.Condition, error) {
	on, err := Forwarding(ctx, false)
	if err != nil {
		return nil, err
	}
	all := []diagnosis.Condition{{
		What: "the host forwards packets", Detail: fmt.Sprintf("net.ipv4.ip_forward = %s", map[bool]string{true: "1", false: "0"}[on]),
		OK: on, Remedy: "sysctl -w net.ipv4.ip_forward=1",
	}}
	drops, err := droppingChains(ctx)
	if err != nil {
		return nil, err
	}
	policy := diagnosis.Condition{
		What: "no other firewall drops what the host forwards", Detail: strings.Join(drops, ", "), OK: len(drops) == 0,
	}
	for _, d := range drops {
		policy.Remedy = allow(d)
	}
	all = append(all, policy)
	if bridgedFiltered() && len(drops) > 0 {
		all = append(all, diagnosis.Condition{
			What: "what a bridge carries does not go through that firewall", Detail: "net.bridge.bridge-nf-call-iptables = 1",
			Remedy: "sysctl -w net.bridge.bridge-nf-call-iptables=0",
		})
	}
	return all, nil
}

// Where containers' packets are dropped by default, as nft(8) or iptables(8) would name it.
const (
	iptablesFilter = "ip filter FORWARD"
	legacyFilter   = "iptables-legacy filter FORWARD"
)

// allow is the command that lets containers through a chain, for whichever program looks after it.
func allow(chain string) string {
	switch {
	case chain == legacyFilter:
		return "iptables-legacy -I FORWARD -i nb+ -j ACCEPT; iptables-legacy -I FORWARD -o nb+ -j ACCEPT"
	case chain == iptablesFilter:
		return "iptables -I FORWARD -i nb+ -j ACCEPT; iptables -I FORWARD -o nb+ -j ACCEPT"
	case strings.HasPrefix(chain, "inet firewalld"):
		return "firewall-cmd --zone=trusted --add-interface=nb+"
	}
	return fmt.Sprintf(`nft insert rule %s iifname "nb*" accept; nft insert rule %s oifname "nb*" accept`, chain, chain)
}

// droppingChains lists the base chains at the forward hook that drop what no rule of theirs lets pass, and that do not speak of
// our bridges. What their other rules do is not interpreted.
func droppingChains(ctx context.Context) (list []string, err error) {
	var chains []*nftables.Chain
	err = message(ctx,
		func() string { return "sendmsg(NFT_MSG_GETCHAIN: nft list chains)" },
		func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			chains, err = c.ListChains()
			return err
		})
	if err != nil {
		return nil, &Error{"list firewall chains", "", err}
	}
	for _, ch := range chains {
		forward := ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward
		drops := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		family := familyName(ch.Table.Family)
		if family != "" && forward && drops && !speaksOfOurs(ch) {
			list = append(list, family+" "+ch.Table.Name+" "+ch.Name)
		}
	}
	drops, err := legacyDrops()
	if drops {
		list = append(list, legacyFilter)
	}
	return list, err
}

// familyName is how nft(8) calls those that see IP packets.
func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return ""
}

// speaksOfOurs says whether a chain has a rule about a device whose name begins as our bridges' do: then somebody has taken
// care.
func speaksOfOurs(ch *nftables.Chain) bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return false
	}
	for _, r := range rules {
		name := false
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Meta:
				name = e.Key == expr.MetaKeyIIFNAME || e.Key == expr.MetaKeyOIFNAME
			case *expr.Cmp:
				if name && bytes.HasPrefix(e.Data, []byte("nb")) {
					return true
				}
				name = false
			}
		}
	}
	return false
}
