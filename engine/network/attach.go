package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
	stage "github.com/nslab/nslab/labs/09-network"
)

// What the files say, made true in the kernel, and taken back.

// Link names the end on the host of a container's connection with a network.
func (s *Store) Link(networkID, id string) string { return s.kernel.link(networkID, id) }

func (k kernel) link(networkID, id string) string {
	return stage.LinkName('v', k.root, id+networkID)
}

// Attach connects a container, whose network namespace is open, with everything that its sandbox names. Whatever fails, what was
// made stays for [Store.Detach].
func (s *Store) Attach(ctx context.Context, b *Sandbox, ns *stage.Namespace) error {
	for _, e := range b.Endpoints {
		if err := s.AttachEndpoint(ctx, b, e, ns); err != nil {
			return err
		}
	}
	if b.Resolver {
		if err := stage.Redirect(ctx, ns, ResolverAddress, ResolverPort); err != nil {
			return err
		}
	}
	return s.Publish(ctx, b)
}

// The resolver's address inside, as in Docker, and the port at which the monitor really listens.
var ResolverAddress = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 11}), 53)

// ResolverPort lies above those that the kernel gives to whoever wants any (ip_local_port_range).
const ResolverPort = 61053

// AttachEndpoint makes one connection, and lets the others of that network know.
func (s *Store) AttachEndpoint(ctx context.Context, b *Sandbox, e *Endpoint, ns *stage.Namespace) error {
	x, err := s.kernel.endpoint(b, e)
	if err != nil {
		return err
	}
	if e == b.Gateway() {
		for _, gw := range []netip.Addr{e.Gateway4, e.Gateway6} {
			if gw.IsValid() {
				x.Gateways = append(x.Gateways, gw)
			}
		}
	}
	if err := x.Attach(ctx, ns); err != nil {
		return err
	}
	return s.Announce(b, e)
}

// Publish lets the host's ports lead to the container, by its first connection that has a way out.
func (s *Store) Publish(ctx context.Context, b *Sandbox) error {
	ports := b.rules()
	if len(ports) == 0 {
		return nil
	}
	for range 100 {
		err := s.kernel.firewall().Publish(ctx, s.kernel.owner(b.ID), ports...)
		var taken *stage.TakenError
		if !errors.As(err, &taken) {
			return err
		}
		// By a dead container, whose monitor was killed: the rules are all that is left of it.
		id, ours := s.kernel.ownedBy(taken.Owner)
		if !ours || s.Alive(id) {
			return err
		}
		if err := s.kernel.firewall().Unpublish(ctx, taken.Owner); err != nil {
			return err
		}
	}
	return errors.New("publish ports: dead containers have them all the time")
}

// OwnerID is the container in the name of an owner of links and rules; empty if it is not one of this root's.
func (s *Store) OwnerID(owner string) string {
	id, _ := s.kernel.ownedBy(owner)
	return id
}

// Unpublish takes that back.
func (s *Store) Unpublish(ctx context.Context, id string) error {
	return s.kernel.firewall().Unpublish(ctx, s.kernel.owner(id))
}

// rules are the ports that the kernel leads to the container. Between the families it cannot: for those there is the relay.
func (b *Sandbox) rules() (list []stage.Port) {
	e := b.Gateway()
	if e == nil {
		return nil
	}
	for _, p := range b.Ports {
		target := e.IPv4
		if p.Host.Addr().Is6() {
			target = e.IPv6
		}
		if target.IsValid() {
			list = append(list, stage.Port{Proto: p.Proto, Host: p.Host, Target: netip.AddrPortFrom(target.Addr(), p.Container)})
		}
	}
	return list
}

// RelayTarget is where what arrives at a published port is to go that the kernel did not rewrite.
func (b *Sandbox) RelayTarget(p Published) (to netip.AddrPort, ok bool) {
	e := b.Gateway()
	if e == nil {
		return to, false
	}
	first, second := e.IPv4, e.IPv6
	if p.Host.Addr().Is6() {
		first, second = second, first
	}
	if !first.IsValid() {
		first = second
	}
	return netip.AddrPortFrom(first.Addr(), p.Container), first.IsValid()
}

// Detach takes back what the kernel has of a sandbox, and then what the files have, in dir too. It goes on after an error. Where
// the container's namespace ends by itself, its links need not be removed one by one, which takes time: then wait is not
// set.
func (s *Store) Detach(ctx context.Context, b *Sandbox, dir string, wait bool) error {
	var errs []error
	if len(b.Ports) > 0 {
		errs = append(errs, s.Unpublish(ctx, b.ID))
	}
	for _, e := range b.Endpoints {
		if wait {
			errs = append(errs, s.DetachEndpoint(ctx, b, e))
		}
		if hasUDP(b.Ports) && e.IPv4.IsValid() {
			errs = append(errs, stage.ForgetFlows(ctx, e.IPv4.Addr()))
		}
	}
	return errors.Join(append(errs, s.Forget(b, dir))...)
}

func hasUDP(ports []Published) bool {
	for _, p := range ports {
		if p.Proto == "udp" {
			return true
		}
	}
	return false
}

// DetachEndpoint removes one connection from the kernel.
func (s *Store) DetachEndpoint(ctx context.Context, b *Sandbox, e *Endpoint) error {
	x, err := s.kernel.endpoint(b, e)
	if err != nil {
		return err
	}
	return x.Detach(ctx)
}

// Ensure makes a network's bridge and rules where they are not there any more: after a reboot, for example. said is told what
// had to be done to the host.
func (s *Store) Ensure(ctx context.Context, n *Network, said func(string)) error {
	if !n.Bridged() {
		return nil
	}
	if !deviceUp(n.Device) {
		if err := s.restore(ctx, n); err != nil {
			return err
		}
	} else if there, err := s.kernel.firewall().Exists(ctx); err != nil {
		return err
	} else if !there { // somebody has flushed all rules
		if err := s.Repair(ctx); err != nil {
			return err
		}
	}
	return s.forward(ctx, n, said)
}

// restore makes the bridge of a network that has been without one for a while. Meanwhile the host may have got a way to these
// addresses.
func (s *Store) restore(ctx context.Context, n *Network) error {
	machine, err := s.kernel.lock(ctx)
	if err != nil {
		return err
	}
	defer machine.Close()
	if deviceUp(n.Device) {
		return nil // somebody was faster
	}
	there, err := s.kernel.prefixes(ctx)
	if err != nil {
		return err
	}
	own, err := s.kernel.half(ctx, n)
	if err != nil {
		return err
	}
	for _, p := range n.Pools {
		if q := overlapping(p.Subnet, there); q.IsValid() && !own {
			hint := "remove the network, and make it anew"
			if n.Name == Bridge {
				hint = "'nslab system prune' removes it, and the next container gets another one"
			}
			return &Error{Network: n.Name, What: "subnet " + p.Subnet.String(), Err: fmt.Errorf("%w %s, to which this host has got a way", ErrOverlap, q), Hint: hint}
		}
	}
	return s.kernel.up(ctx, n)
}

// half tells whether the bridge is there, made by us, but not up: we were killed.
func (k kernel) half(ctx context.Context, n *Network) (bool, error) {
	links, err := stage.Links(ctx, k.owner(n.ID))
	for _, l := range links {
		if l.Name == n.Device {
			return true, err
		}
	}
	return false, err
}

// deviceUp asks the kernel whether a bridge is up, which is the last that happens to it when it is made. See netdevice(7).
func deviceUp(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil || unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request) != nil {
		return false
	}
	return request.Uint16()&unix.IFF_UP != 0
}

func parseMAC(text string) (net.HardwareAddr, error) {
	if text == "" {
		return nil, nil
	}
	return net.ParseMAC(text)
}

// forwardingFile says what was before nslab turned the host into a router.
const forwardingFile = "forwarding"

// forward lets the host pass packets on, if it does not: without that a bridge leads nowhere. What was before is written down
// first.
func (s *Store) forward(ctx context.Context, n *Network, said func(string)) error {
	if n.Internal {
		return nil
	}
	for _, family := range []struct {
		pool *Pool
		v6   bool
		name string
	}{{n.Pool4(), false, "ip_forward"}, {n.Pool6(), true, "ipv6 forwarding"}} {
		if family.pool == nil {
			continue
		}
		on, err := stage.Forwarding(ctx, family.v6)
		if err != nil {
			return err
		}
		if on {
			continue
		}
		if family.v6 {
			if err := mayRoute6(ctx, n); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(s.runDir, 0o700); err != nil {
			return fmt.Errorf("note that %s is off: %w", family.name, jsonfile.Cause(err))
		}
		if err := os.WriteFile(s.forwarding(family.v6), []byte("0\n"), 0o600); err != nil {
			return fmt.Errorf("note that %s is off: %w", family.name, jsonfile.Cause(err))
		}
		if err := stage.SetForwarding(ctx, family.v6, true); err != nil {
			return err
		}
		if said != nil {
			said(family.name + " of this host was off and is on now, so that containers reach the world; 'nslab system prune' puts it back")
		}
	}
	return nil
}

// mayRoute6 refuses to cut the host off: one that passes IPv6 packets on is a router, and a router does not believe other
// routers' advertisements, by which this one may have got its way to the world. See accept_ra in ip-sysctl.rst.
func mayRoute6(ctx context.Context, n *Network) error {
	devices, err := stage.RouterAdvertised(ctx)
	if err != nil || len(devices) == 0 {
		return err
	}
	return &Error{Network: n.Name, What: "turn IPv6 forwarding on", Err: fmt.Errorf("this host would lose its way to the world by %s", strings.Join(devices, ", ")),
		Hint: fmt.Sprintf("sysctl -w net.ipv6.conf.%s.accept_ra=2", devices[0])}
}

func (s *Store) forwarding(v6 bool) string {
	name := forwardingFile
	if v6 {
		name += "6"
	}
	return filepath.Join(s.runDir, name)
}
