// Package network knows which networks there are, and who has which address in them.
//
// A network is a bridge on the host with a subnet, and a file that says so; what the kernel is to do for it is lab 09. This
// package decides: which subnet is free, which address is, and whose it is. There is no daemon that could remember that, so
// every decision is one step in a file system that has one winner, and whoever was killed in the middle of one has either
// decided or not.
//
// On disk, below the root:
//
//	networks/<name>.json    a network, "bridge" too once it was used; made and removed under networks/.lock
//
// and below the run root, gone at a reboot as containers are:
//
//	networks/<id>/leases/<address>       a link whose text is the id of the container that has the address: symlink(2)
//	                                     claims it, or fails
//	networks/<id>/names/<name>@<id>      a link whose text is the addresses that the name stands for, for the resolver
//	networks/forwarding                  what ip_forward was before nslab turned it on
//	containers/<id>/network.json         what a container has of all this, its [Sandbox]: written before it is made
//
// A lease whose container is dead is nobody's. It is found when somebody needs it, or by [Store.Sweep].
package network

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
	"time"
)

// The networks that every machine has.
const (
	Bridge = "bridge" // the default; made when it is first used
	Host   = "host"   // the host's own namespace
	None   = "none"   // a namespace with nothing but lo
)

// Predefined tells whether a name is one of those.
func Predefined(name string) bool { return name == Bridge || name == Host || name == None }

// Network is one network.
type Network struct {
	ID         string
	Name       string
	Created    time.Time
	Driver     string // bridge; host and null are those of Host and None
	EnableIPv6 bool
	Internal   bool // no way out of it
	Attachable bool
	Pools      []Pool
	Options    map[string]string
	Labels     map[string]string

	Device     string // the bridge's name
	MTU        int    `json:",omitempty"`
	Masquerade bool   // containers appear outside under the host's address
}

// Pool is a range of addresses.
type Pool struct {
	Subnet  netip.Prefix
	Range   netip.Prefix          // the part of it that is given out; all if it is not valid
	Gateway netip.Addr            // the bridge's own
	Aux     map[string]netip.Addr `json:",omitempty"` // not given out: others on that network have them
	Chosen  bool                  `json:",omitempty"` // by nslab, not by the user
}

// Pool4 is the pool of IPv4 addresses, Pool6 that of IPv6's; nil if the network has none.
func (n *Network) Pool4() *Pool { return n.pool(true) }
func (n *Network) Pool6() *Pool { return n.pool(false) }

func (n *Network) pool(v4 bool) *Pool {
	for i := range n.Pools {
		if n.Pools[i].Subnet.Addr().Is4() == v4 {
			return &n.Pools[i]
		}
	}
	return nil
}

// Bridged tells whether containers get addresses in it.
func (n *Network) Bridged() bool { return n.Driver == "bridge" }

// UserDefined tells whether somebody has made it: then its containers know one another by name.
func (n *Network) UserDefined() bool { return !Predefined(n.Name) }

// fixedID is the id of a network that need not be made: always the same below one root.
func fixedID(root, name string) string {
	sum := sha256.Sum256([]byte("network\x00" + root + "\x00" + name))
	return hex.EncodeToString(sum[:])
}

// EndpointID names the connection of a container with a network.
func EndpointID(networkID, containerID string) string {
	sum := sha256.Sum256([]byte("endpoint\x00" + networkID + "\x00" + containerID))
	return hex.EncodeToString(sum[:])
}

// DNSName is a name as the resolver looks for it: capitals make no difference.
func DNSName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
