package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	stage "github.com/nslab/nslab/labs/09-network"
)

// kernel is the part of a network that is not in files: lab 09, with names that tell whose it is.
type kernel struct {
	root string // six digits: links and tables are the machine's, and not the run root's
}

func newKernel(runRoot string) kernel {
	return kernel{strings.TrimSuffix(course.IDPrefix(runRoot), "-")}
}

// device names a bridge.
func (k kernel) device(n *Network) string { return stage.LinkName('b', k.root, n.ID) }

// owner is what is written onto links and rules.
func (k kernel) owner(id string) string { return "nslab " + k.root + " " + id }

func (k kernel) firewall() stage.Firewall { return stage.Firewall{Table: stage.TableName(k.root)} }

// prefixes are the addresses that the host has a way to.
func (k kernel) prefixes(ctx context.Context) ([]netip.Prefix, error) { return stage.HostPrefixes(ctx) }

// lock is for one nslab of this network namespace at a time, whatever its root: an abstract socket's name belongs to the
// namespace, as subnets and devices do, and is free again when its holder is gone. See unix(7).
func (k kernel) lock(ctx context.Context) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lock the machine's networks: %w", err)
	}
	f := os.NewFile(uintptr(fd), "lock")
	for {
		err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@nslab-networks"})
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			f.Close()
			return nil, fmt.Errorf("lock the machine's networks: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock the machine's networks: %w", context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (k kernel) bridge(n *Network) stage.Bridge {
	b := stage.Bridge{Name: n.Device, Owner: k.owner(n.ID), MTU: n.MTU}
	for _, p := range n.Pools {
		b.Addresses = append(b.Addresses, netip.PrefixFrom(p.Gateway, p.Subnet.Bits()))
	}
	return b
}

func (k kernel) rules(n *Network) stage.Network {
	r := stage.Network{Bridge: n.Device, Masquerade: n.Masquerade, Internal: n.Internal, Owner: k.owner(n.ID)}
	for _, p := range n.Pools {
		r.Subnets = append(r.Subnets, p.Subnet)
	}
	return r
}

// up makes the rules and then the bridge, if they are not there: a bridge that is up has all that belongs to it.
func (k kernel) up(ctx context.Context, n *Network) error {
	if err := k.firewall().AddNetwork(ctx, k.rules(n)); err != nil {
		return err
	}
	if err := k.bridge(n).Make(ctx); err != nil {
		return errors.Join(err, k.firewall().RemoveNetwork(context.WithoutCancel(ctx), k.rules(n)))
	}
	return nil
}

// down takes both away.
func (k kernel) down(ctx context.Context, n *Network) error {
	return errors.Join(k.firewall().RemoveNetwork(ctx, k.rules(n)), k.bridge(n).Remove(ctx))
}

// endpoint is a connection in the stage's words.
func (k kernel) endpoint(b *Sandbox, e *Endpoint) (stage.Endpoint, error) {
	x := stage.Endpoint{Name: e.Link, Owner: k.owner(b.ID), Bridge: e.Device, Inside: e.Inside, MTU: e.MTU}
	var err error
	if x.MAC, err = parseMAC(e.MAC); err != nil {
		return x, err
	}
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() {
			x.Addresses = append(x.Addresses, p)
		}
	}
	return x, nil
}
