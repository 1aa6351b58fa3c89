package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/jsonfile"
	stage "github.com/nslab/nslab/labs/09-network"
	container "github.com/nslab/nslab/labs/12-container"
	"github.com/nslab/nslab/trace"
)

// How a container gets its networks. Its addresses and the host's ports are taken before there is anything else, so that what
// cannot be had is known at once. Then its monitor makes the init with a namespace of its own, and says who that is; while the
// init starts up and the rest of the container is written down, the namespace is connected. Only then does the init learn what to
// execute: the program finds its networks there from its first instruction on.

// EndpointOptions is a network that a container is to be connected to.
type EndpointOptions struct {
	Network string
	Aliases []string   `json:",omitempty"`
	IPv4    netip.Addr `json:",omitzero"`
	IPv6    netip.Addr `json:",omitzero"`
	MAC     string     `json:",omitempty"`
}

// connection is a container's networks while it is being started.
type connection struct {
	sandbox  *network.Sandbox
	networks []*network.Network
	held     []*stage.Held
	done     chan error // nil until connecting has begun
	said     func(string)
}

// bridged tells whether the container has a namespace of its own that leads somewhere.
func (c *Container) bridged() bool { return len(c.Networks) > 0 && rulesNetworks() }

// checkNetworks decides on the networks of a new container, and refuses what cannot be before anything is made.
func (c *Container) checkNetworks(list []EndpointOptions) error {
	mode := c.HostConfig.NetworkMode
	root := rulesNetworks()
	if mode == "default" || mode == "" {
		if mode = network.Bridge; !root {
			mode = network.None
		}
		for i := range list {
			list[i].Network = mode
		}
	}
	c.HostConfig.NetworkMode = mode
	alone := mode == network.None || mode == network.Host || strings.HasPrefix(mode, "container:")
	switch {
	case alone:
		return c.checkAlone(mode, list)
	case !root:
		return &InputError{What: "network", Value: mode, Err: errors.New("only root can connect a container with the host's network"),
			Hint: "an ordinary user's containers have --network none, host or container:NAME"}
	}
	if len(list) == 0 {
		list = []EndpointOptions{{Network: mode}}
	}
	seen := map[string]bool{}
	for i, a := range list {
		n, err := c.engine.networks.Get(a.Network)
		if err != nil {
			return err
		}
		list[i].Network = n.Name
		switch {
		case !n.Bridged():
			return &InputError{What: "network", Value: a.Network, Err: errors.New("it cannot be combined with others")}
		case seen[n.Name]:
			return &InputError{What: "network", Value: a.Network, Err: errors.New("it is named twice")}
		case !n.UserDefined() && (a.IPv4.IsValid() || a.IPv6.IsValid()):
			return &InputError{What: "address", Err: errors.New("user specified IP address is supported on user defined networks only"), Hint: "'nslab network create --subnet …' makes one"}
		case !n.UserDefined() && len(a.Aliases) > 0:
			return &InputError{What: "alias", Err: errors.New("network-scoped aliases are only supported for user-defined networks"), Hint: "'nslab network create' makes one"}
		}
		seen[n.Name] = true
	}
	c.HostConfig.NetworkMode = list[0].Network
	c.Networks = list
	return nil
}

// checkAlone is for containers that no bridge leads to.
func (c *Container) checkAlone(mode string, list []EndpointOptions) error {
	h := &c.HostConfig
	shared := strings.HasPrefix(mode, "container:")
	for _, a := range list {
		switch {
		case len(list) > 1:
			return &InputError{What: "network", Value: mode, Err: errors.New("it cannot be combined with others")}
		case a.IPv4.IsValid() || a.IPv6.IsValid():
			return &InputError{What: "address", Err: errors.New("user specified IP address is supported on user defined networks only")}
		case len(a.Aliases) > 0:
			return &InputError{What: "alias", Err: errors.New("network-scoped aliases are only supported for user-defined networks")}
		case a.MAC != "" && mode != network.None:
			return &InputError{What: "MAC address", Value: a.MAC, Err: fmt.Errorf("a container with --network %s has no device of its own", mode)}
		}
	}
	if shared && (len(h.PortBindings) > 0 || h.PublishAllPorts) {
		return &InputError{What: "port", Err: errors.New("conflicting options: port publishing and the container type network mode"),
			Hint: "publish it with the container whose network this one shares"}
	}
	return nil
}

// alive tells whether a container runs, is being started, or is in somebody's hands: all that is known of it then is its own.
func (e *Engine) alive(id string) bool {
	dir := filepath.Join(e.runDir(), id)
	return locked(filepath.Join(dir, lockName)) || locked(filepath.Join(dir, monitor.LockFile)) || e.initAlive(dir)
}

// takeNetworks claims the container's addresses and the host's ports. The caller has its lock, and no monitor of an earlier run
// is left.
func (c *Container) takeNetworks(ctx context.Context, said func(string)) (err error) {
	if !c.bridged() {
		return errors.Join(c.forgetResolver(), c.noteSharing(ctx))
	}
	if err := c.dropNetworks(ctx); err != nil { // of a run that nobody has ended
		return err
	}
	if err := c.forgetResolver(); err != nil {
		return err
	}
	k := &connection{sandbox: &network.Sandbox{ID: c.ID}, said: said}
	c.connection = k
	defer func() {
		if err != nil {
			err = errors.Join(err, c.leaveNetworks(context.WithoutCancel(ctx)))
		}
	}()
	for i, a := range c.Networks {
		n, e, err := c.endpoint(ctx, a, fmt.Sprintf("eth%d", i))
		if err != nil {
			return err
		}
		k.networks, k.sandbox.Endpoints = append(k.networks, n), append(k.sandbox.Endpoints, e)
	}
	k.sandbox.Resolver, k.sandbox.Servers = c.needsResolver(k.networks), c.HostConfig.DNS
	if k.sandbox.Gateway() != nil {
		if err := c.holdPorts(ctx); err != nil {
			return err
		}
	}
	return k.sandbox.Save(c.RunDir())
}

// endpoint claims the container's addresses in one network.
func (c *Container) endpoint(ctx context.Context, a EndpointOptions, inside string) (*network.Network, *network.Endpoint, error) {
	n, a4, a6, err := c.engine.networks.Connect(ctx, a.Network, c.ID, a.IPv4, a.IPv6)
	if err != nil {
		return nil, nil, err
	}
	e := &network.Endpoint{
		Network: n.Name, NetworkID: n.ID, Device: n.Device, Link: c.engine.networks.Link(n.ID, c.ID), Inside: inside,
		MAC: a.MAC, MTU: n.MTU, Own: a.IPv4.IsValid() || a.IPv6.IsValid(),
	}
	first := a4
	if !first.IsValid() {
		first = a6
	}
	if e.MAC == "" {
		e.MAC = stage.MAC(first).String()
	}
	if p := n.Pool4(); p != nil {
		e.IPv4 = netip.PrefixFrom(a4, p.Subnet.Bits())
		if !n.Internal {
			e.Gateway4 = p.Gateway
		}
	}
	if p := n.Pool6(); p != nil {
		e.IPv6 = netip.PrefixFrom(a6, p.Subnet.Bits())
		if !n.Internal {
			e.Gateway6 = p.Gateway
		}
	}
	if n.UserDefined() {
		e.Names = c.dnsNames(a)
	}
	return n, e, nil
}

// dnsNames are the names by which others on a network find the container.
func (c *Container) dnsNames(a EndpointOptions) (list []string) {
	names := append([]string{c.Name}, a.Aliases...)
	for _, name := range append(names, c.ID[:12], c.Config.Hostname) {
		if name != "" && !slices.ContainsFunc(list, func(have string) bool { return network.DNSName(have) == network.DNSName(name) }) {
			list = append(list, name)
		}
	}
	return list
}

// connect makes the connections in the kernel, as soon as it is known where.
func (c *Container) connect(ctx context.Context) {
	k := c.connection
	if k == nil {
		return
	}
	k.done = make(chan error, 1)
	m := c.monitor
	work := func() { k.done <- c.attach(ctx, m) }
	if trace.On(ctx) { // in order, for who reads along
		work()
	} else {
		go work()
	}
}

func (c *Container) attach(ctx context.Context, m *launched) error {
	if err := c.ensureNetworks(ctx); err != nil {
		return err
	}
	pid, err := m.born(ctx)
	if err != nil {
		return err
	}
	return c.attachTo(ctx, pid)
}

// ensureNetworks makes what the container's networks need in the kernel.
func (c *Container) ensureNetworks(ctx context.Context) error {
	for _, n := range c.connection.networks {
		if err := c.engine.networks.Ensure(ctx, n, c.connection.said); err != nil {
			return err
		}
	}
	return nil
}

// attachTo connects the namespace of a process that was just born.
func (c *Container) attachTo(ctx context.Context, pid int) error {
	ns, err := stage.OpenNamespace(ctx, fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	err = errors.Join(c.engine.networks.Attach(ctx, c.connection.sandbox, ns), ns.Close())
	var taken *stage.TakenError
	if errors.As(err, &taken) { // by a container whose monitor, which held it, was killed
		return c.portError(err, int(taken.Addr.Port()), taken.Proto)
	}
	return err
}

// connected waits until the container is.
func (c *Container) connected() error {
	k := c.connection
	if k == nil || k.done == nil {
		return nil
	}
	err := <-k.done
	k.done = nil
	if err == nil {
		k.release()
	}
	return err
}

// release lets go of the ports: the monitor has them.
func (k *connection) release() {
	for _, h := range k.held {
		h.Close()
	}
	k.held = nil
}

// leaveNetworks takes back what takeNetworks and connect have made.
func (c *Container) leaveNetworks(ctx context.Context) error {
	k := c.connection
	if k == nil {
		return nil
	}
	c.connected() // whatever came of it
	k.release()
	c.connection = nil
	return c.engine.networks.Detach(ctx, k.sandbox, c.RunDir(), true)
}

// dropNetworks takes back what a run of the container has left that its monitor did not end.
func (c *Container) dropNetworks(ctx context.Context) error {
	b, err := network.LoadSandbox(c.RunDir())
	if err != nil || b == nil {
		return err
	}
	return c.engine.networks.Detach(ctx, b, c.RunDir(), true)
}

// files are what the monitor is to hold.
func (k *connection) files() (list []*os.File) {
	if k == nil {
		return nil
	}
	for _, h := range k.held {
		if f := h.File(); f != nil {
			list = append(list, f)
		}
	}
	return list
}

// resolver tells whether the monitor is to answer for names.
func (k *connection) resolver() bool { return k != nil && k.sandbox.Resolver }

// initAlive tells whether the init of the container with this run folder lives, whoever looks after it.
func (e *Engine) initAlive(dir string) bool {
	s, err := container.Load(dir)
	return err == nil && s.Alive()
}

// renameOnNetworks lets the others on the container's networks find it by its new name.
func (c *Container) renameOnNetworks(from, to string) error {
	b := c.Sandbox()
	if b == nil {
		return nil
	}
	var errs []error
	for _, e := range b.Endpoints {
		if len(e.Names) == 0 {
			continue
		}
		errs = append(errs, c.engine.networks.ForgetNames(b, e))
		for i, name := range e.Names {
			if name == from {
				e.Names[i] = to
			}
		}
		errs = append(errs, c.engine.networks.Announce(b, e))
	}
	return errors.Join(append(errs, b.Save(c.RunDir()))...)
}

// noteSharing tells the container whose network namespace this one is about to share that somebody keeps it alive.
func (c *Container) noteSharing(ctx context.Context) error {
	other, shared := strings.CutPrefix(c.HostConfig.NetworkMode, "container:")
	if !shared {
		return nil
	}
	donor, err := c.engine.Get(ctx, other)
	if err != nil {
		return err
	}
	name := filepath.Join(donor.RunDir(), network.SharedPrefix+c.ID)
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return fmt.Errorf("note who shares the network of container %s: %w", other, jsonfile.Cause(err))
	}
	return nil
}
