package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
	network "github.com/nslab/nslab/labs/09-network"
)

// The probes of the network run in a child of the room that has a network namespace of its own. What they make dies with
// the namespace.

const vethName, vethPeer, bridgeName, tableName = "nslab0", "nslab1", "nslab2", "nslab-doctor"

// tryVeth has a pair of devices made, and looks for them from outside, in the child's /proc/PID/net/dev.
func tryVeth(context.Context, request) ([]string, error) {
	return inNetwork(roleVeth, devices(vethName, vethPeer))
}

// tryBridge does the same for a bridge.
func tryBridge(context.Context, request) ([]string, error) {
	return inNetwork(roleBridge, devices(bridgeName))
}

// devices looks for devices that a child has made.
func devices(want ...string) func(child int) ([]string, error) {
	return func(child int) ([]string, error) {
		file := fmt.Sprintf("/proc/%d/net/dev", child)
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, refusedBy(err, "read(%q)", file)
		}
		var devices []string
		for line := range strings.Lines(string(data)) {
			if name, _, ok := strings.Cut(line, ":"); ok {
				devices = append(devices, strings.TrimSpace(name))
			}
		}
		for _, w := range want {
			if !slices.Contains(devices, w) {
				return devices, &wrong{"the kernel agreed, but the devices are not there"}
			}
		}
		return devices, nil
	}
}

// tryNftables has a table made, in the child, which also asks the kernel for it: it is shown nowhere in /proc.
func tryNftables(context.Context, request) ([]string, error) {
	return inNetwork(roleNftables, func(int) ([]string, error) { return nil, nil })
}

// inNetwork runs a role in a network namespace, and look while it is still there.
func inNetwork(role string, look func(child int) ([]string, error)) ([]string, error) {
	p, a, done, refused := still(pid.Config{Namespaces: unix.CLONE_NEWNET}, role)
	if refused == nil {
		defer done()
		if a.ok() {
			return look(p.Pid)
		}
		refused = &a
	}
	if refused.Call == "" {
		return nil, &wrong{refused.Wrong}
	}
	return nil, &refusal{refused.Call, refused.Errno}
}

// makeVeth runs in the child.
func makeVeth() answer {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: vethName}, PeerName: vethPeer}
	if err := netlink.LinkAdd(link); err != nil {
		return (&recorder{}).answer("", refusedBy(err, "RTM_NEWLINK(%s, veth, peer %s)", vethName, vethPeer))
	}
	return answer{}
}

// makeBridge runs in the child, and has lab 09 do it.
func makeBridge() answer {
	rec := &recorder{}
	b := network.Bridge{Name: bridgeName, Owner: "nslab doctor", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
	if err := b.Make(rec.under(context.Background())); err != nil {
		return rec.answer("net.bridge", err)
	}
	return answer{}
}

// makeTable runs in the child. The table itself is the first question, and the rules of lab 09, of which each kind may be a
// module that is missing, the second.
func makeTable() answer {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	err := func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(table)
		if err := c.Flush(); err != nil {
			return err
		}
		tables, err := c.ListTables()
		if err == nil && !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }) {
			err = &wrong{"the kernel agreed, but the table is not there"}
		}
		return err
	}()
	if err != nil {
		return (&recorder{}).answer("", refusedBy(err, "NFT_MSG_NEWTABLE(inet %s)", tableName))
	}
	rules := network.Firewall{Table: tableName + "-rules"}
	if err := rules.AddNetwork(context.Background(), network.Network{Owner: "nslab doctor", Bridge: bridgeName}); err != nil {
		return (&recorder{}).answer("", refusedBy(err, "NFT_MSG_NEWRULE(inet %s: ct, fib, masq, nat)", rules.Table))
	}
	return answer{}
}
