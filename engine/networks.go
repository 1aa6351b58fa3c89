package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nslab/nslab/engine/network"
	mount "github.com/nslab/nslab/labs/02-mount"
	stage "github.com/nslab/nslab/labs/09-network"
)

// Networks lists all of them, by name. What cannot be read is in the error, beside the rest.
func (e *Engine) Networks() ([]*network.Network, error) { return e.networks.List() }

// Network finds one by its name, its id, or the beginning of its id.
func (e *Engine) Network(ref string) (*network.Network, error) { return e.networks.Get(ref) }

// CreateNetwork makes one. said hears of what had to be done to the host, and what is in the way there.
func (e *Engine) CreateNetwork(ctx context.Context, spec network.Spec, said func(string)) (*network.Network, error) {
	if err := onlyRoot("make a network"); err != nil {
		return nil, err
	}
	n, err := e.networks.Create(ctx, spec, said)
	if err == nil && !n.Internal {
		e.networks.Diagnose(ctx, said)
	}
	return n, err
}

// rulesNetworks tells whether we may change the network that we are in. Root of a user namespace that somebody else has made
// looks like root, and is not: the network belongs to the first user namespace (network_namespaces(7)).
func rulesNetworks() bool { return os.Geteuid() == 0 && !mount.InUserNamespace() }

func onlyRoot(what string) error {
	if rulesNetworks() {
		return nil
	}
	return &InputError{What: "request", Err: fmt.Errorf("only root can %s: it is part of the host's", what),
		Hint: "an ordinary user's containers have --network none, host or container:NAME"}
}

// RemoveNetwork takes one away to which no container is connected, and returns it.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) (*network.Network, error) {
	return e.networks.Remove(ctx, ref)
}

// PruneNetworks removes those that somebody has made, to which no container is connected, and that match. It returns their names.
func (e *Engine) PruneNetworks(ctx context.Context, match func(*network.Network) bool) (names []string, err error) {
	if !rulesNetworks() {
		return nil, nil
	}
	list, err := e.networks.List()
	errs := []error{err}
	for _, n := range list {
		if !n.UserDefined() || !match(n) {
			continue
		}
		var missing *network.NotFoundError
		_, err := e.networks.Remove(ctx, n.Name)
		switch {
		case err == nil:
			names = append(names, n.Name)
		case errors.Is(err, network.ErrInUse), errors.As(err, &missing):
		default:
			errs = append(errs, err)
		}
	}
	return names, errors.Join(errs...)
}

// ReapNetworks takes back what dead containers have of networks; with all, everything that no container needs, too: the default
// bridge, the table of rules, and whatever had to be changed on the host. It returns what that was.
func (e *Engine) ReapNetworks(ctx context.Context, all bool) ([]string, error) {
	if !e.networks.Used() || !rulesNetworks() {
		return nil, nil
	}
	removed, err := e.networks.Reap(ctx)
	if !all {
		return removed, err
	}
	more, retireErr := e.networks.Retire(ctx)
	return append(removed, more...), errors.Join(err, retireErr)
}

// Connected is a container as a network's `inspect` shows it.
type Connected struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

// NetworkContainers are the containers that are connected to a network just now, by their ids.
func (e *Engine) NetworkContainers(n *network.Network) (map[string]Connected, error) {
	all := map[string]Connected{}
	ids, err := e.networks.Users(n)
	for _, id := range ids {
		c, loadErr := e.load(id)
		if loadErr != nil {
			continue // another root's, or being removed
		}
		b, loadErr := network.LoadSandbox(c.RunDir())
		if loadErr != nil || b == nil {
			continue
		}
		if end := b.Endpoint(n.ID); end != nil {
			x := Connected{Name: c.Name, EndpointID: network.EndpointID(n.ID, id), MacAddress: end.MAC}
			if end.IPv4.IsValid() {
				x.IPv4Address = end.IPv4.String()
			}
			if end.IPv6.IsValid() {
				x.IPv6Address = end.IPv6.String()
			}
			all[id] = x
		}
	}
	return all, err
}

// Connect connects a container with one more network: at once if it runs, and at each start from then on.
func (e *Engine) Connect(ctx context.Context, ref string, o EndpointOptions, said func(string)) error {
	if err := onlyRoot("connect a container with the host's network"); err != nil {
		return err
	}
	n, err := e.networks.Get(o.Network)
	if err != nil {
		return err
	}
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return err
	}
	defer c.Close()
	o.Network = n.Name
	if err := c.mayConnect(n, o); err != nil {
		return err
	}
	if c.State.Running {
		if err := c.connectNow(ctx, o, said); err != nil {
			return err
		}
	}
	c.Networks = append(c.Networks, o)
	if err := c.save(); err != nil {
		return errors.Join(err, c.disconnectNow(context.WithoutCancel(ctx), n.ID))
	}
	return nil
}

// mayConnect refuses what cannot be.
func (c *Container) mayConnect(n *network.Network, o EndpointOptions) error {
	mode := c.HostConfig.NetworkMode
	switch {
	case n.Name == network.Host || mode == network.Host:
		return &InputError{What: "network", Value: n.Name, Err: errors.New("container cannot be disconnected from host network or connected to host network")}
	case n.Name == network.None || mode == network.None:
		return &InputError{What: "network", Value: n.Name, Err: errors.New("container cannot be connected to multiple networks with one of the networks in private (none) mode")}
	case strings.HasPrefix(mode, "container:"):
		return &InputError{What: "network", Value: n.Name, Err: errors.New("the container has the network of another one"), Hint: "connect that one"}
	case !n.UserDefined() && (o.IPv4.IsValid() || o.IPv6.IsValid()):
		return &InputError{What: "address", Err: errors.New("user specified IP address is supported on user defined networks only")}
	case !n.UserDefined() && len(o.Aliases) > 0:
		return &InputError{What: "alias", Err: errors.New("network-scoped aliases are only supported for user-defined networks")}
	}
	if slices.ContainsFunc(c.Networks, func(a EndpointOptions) bool { return a.Network == n.Name }) {
		return &InputError{What: "network", Value: n.Name, Err: fmt.Errorf("endpoint with name %s already exists in network %s", c.Name, n.Name)}
	}
	return nil
}

// connectNow does it for a container that runs. What is going to be made is written down before.
func (c *Container) connectNow(ctx context.Context, o EndpointOptions, said func(string)) (err error) {
	b, err := network.LoadSandbox(c.RunDir())
	if err != nil {
		return err
	}
	if b == nil { // it had no network before
		b = &network.Sandbox{ID: c.ID}
	}
	inside := ""
	for i := 0; inside == ""; i++ {
		name := fmt.Sprintf("eth%d", i)
		if !slices.ContainsFunc(b.Endpoints, func(e *network.Endpoint) bool { return e.Inside == name }) {
			inside = name
		}
	}
	n, end, err := c.endpoint(ctx, o, inside)
	if err != nil {
		return err
	}
	hadGateway := b.Gateway() != nil
	b.Endpoints = append(b.Endpoints, end)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.disconnectNow(context.WithoutCancel(ctx), n.ID), c.engine.networks.ForgetEndpoint(b, end))
		}
	}()
	if err := b.Save(c.RunDir()); err != nil {
		return err
	}
	if err := c.engine.networks.Ensure(ctx, n, said); err != nil {
		return err
	}
	ns, err := c.openNetwork(ctx)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := c.engine.networks.AttachEndpoint(ctx, b, end, ns); err != nil {
		return err
	}
	if !hadGateway {
		if err := c.engine.networks.Publish(ctx, b); err != nil {
			return err
		}
	}
	if n.UserDefined() && !b.Resolver {
		// It is connected all the same, and finds names from its next start on.
		if err := c.resolveNow(ctx, b, ns, said); err != nil && said != nil {
			said(fmt.Sprintf("container %s does not yet find others of network %s by name: %v", c.Name, n.Name, err))
		}
	}
	return nil
}

// openNetwork holds the container's network namespace.
func (c *Container) openNetwork(ctx context.Context) (*stage.Namespace, error) {
	proc, err := c.holdInit()
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	return stage.OpenNamespace(ctx, fmt.Sprintf("/proc/self/fd/%d/ns/net", proc.Fd()))
}

// Disconnect takes a container off a network.
func (e *Engine) Disconnect(ctx context.Context, ref, networkRef string) error {
	n, err := e.networks.Get(networkRef)
	if err != nil {
		return err
	}
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return err
	}
	defer c.Close()
	if n.Name == network.Host || c.HostConfig.NetworkMode == network.Host {
		return &InputError{What: "network", Value: n.Name, Err: errors.New("container cannot be disconnected from host network or connected to host network")}
	}
	at := slices.IndexFunc(c.Networks, func(a EndpointOptions) bool { return a.Network == n.Name })
	if at < 0 {
		return &InputError{What: "network", Value: n.Name, Err: fmt.Errorf("container %s is not connected to network %s", c.ID[:12], n.Name)}
	}
	c.Networks = slices.Delete(c.Networks, at, at+1)
	if err := c.save(); err != nil {
		return err
	}
	if !c.State.Running {
		return nil
	}
	return c.disconnectNow(ctx, n.ID)
}

// disconnectNow does it for a container that runs. Its ports and its way out go by the next network that has one.
func (c *Container) disconnectNow(ctx context.Context, networkID string) error {
	b, err := network.LoadSandbox(c.RunDir())
	if err != nil || b == nil {
		return err
	}
	end := b.Endpoint(networkID)
	if end == nil {
		return nil
	}
	errs := []error{c.engine.networks.ForgetNames(b, end)} // nobody is to be sent there any more
	before := b.Gateway()
	if before == end && len(b.Ports) > 0 {
		errs = append(errs, c.engine.networks.Unpublish(ctx, c.ID))
	}
	if err := c.engine.networks.DetachEndpoint(ctx, b, end); err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, c.engine.networks.ForgetEndpoint(b, end))
	b.Endpoints = slices.DeleteFunc(b.Endpoints, func(e *network.Endpoint) bool { return e == end })
	errs = append(errs, b.Save(c.RunDir()))
	if after := b.Gateway(); before == end && after != nil {
		errs = append(errs, c.moveGateway(ctx, b, after), c.engine.networks.Publish(ctx, b))
	}
	return errors.Join(errs...)
}

func (c *Container) moveGateway(ctx context.Context, b *network.Sandbox, to *network.Endpoint) error {
	ns, err := c.openNetwork(ctx)
	if err != nil {
		return err
	}
	defer ns.Close()
	var errs []error
	if to.Gateway4.IsValid() {
		errs = append(errs, stage.SetGateway(ctx, ns, to.Inside, to.Gateway4))
	}
	if to.Gateway6.IsValid() {
		errs = append(errs, stage.SetGateway(ctx, ns, to.Inside, to.Gateway6))
	}
	return errors.Join(errs...)
}

// Sandbox is what a container that runs has of networks; nil if that is nothing of its own.
func (c *Container) Sandbox() *network.Sandbox {
	if !c.State.Running {
		return nil
	}
	b, err := network.LoadSandbox(c.RunDir())
	if err != nil {
		return nil
	}
	return b
}

// networkSettings is what `inspect` shows.
func (c *Container) networkSettings() NetworkSettings {
	n := NetworkSettings{Ports: map[string][]PortBinding{}, Networks: map[string]NetworkEndpoint{}}
	if c.State.Running {
		n.SandboxKey = fmt.Sprintf("/proc/%d/ns/net", c.State.Pid)
	}
	mode := c.HostConfig.NetworkMode
	switch {
	case strings.HasPrefix(mode, "container:"):
		return n
	case len(c.Networks) == 0:
		if !slices.Contains([]string{network.None, network.Host}, mode) {
			return n // disconnected from all
		}
		x := NetworkEndpoint{}
		if c.State.Running {
			if known, err := c.engine.networks.ByName(mode); err == nil {
				x.NetworkID, x.EndpointID = known.ID, network.EndpointID(known.ID, c.ID)
			}
		}
		n.Networks[mode] = x
		return n
	}
	b := c.Sandbox()
	for _, a := range c.Networks {
		n.Networks[a.Network] = c.networkEndpoint(a, b)
	}
	if b == nil {
		return n
	}
	if end, ok := n.Networks[network.Bridge]; ok {
		n.Endpoint = end.Endpoint
	}
	for port := range c.Config.ExposedPorts {
		n.Ports[port] = nil
	}
	for _, p := range b.Ports {
		key := fmt.Sprintf("%d/%s", p.Container, p.Proto)
		n.Ports[key] = append(n.Ports[key], PortBinding{HostIP: p.Host.Addr().String(), HostPort: fmt.Sprint(p.Host.Port())})
	}
	return n
}

func (c *Container) networkEndpoint(a EndpointOptions, b *network.Sandbox) NetworkEndpoint {
	x := NetworkEndpoint{Aliases: a.Aliases}
	if a.IPv4.IsValid() || a.IPv6.IsValid() {
		x.IPAMConfig = map[string]string{}
		if a.IPv4.IsValid() {
			x.IPAMConfig["IPv4Address"] = a.IPv4.String()
		}
		if a.IPv6.IsValid() {
			x.IPAMConfig["IPv6Address"] = a.IPv6.String()
		}
	}
	if b == nil {
		return x
	}
	at := slices.IndexFunc(b.Endpoints, func(e *network.Endpoint) bool { return e.Network == a.Network })
	if at < 0 {
		return x
	}
	end := b.Endpoints[at]
	x.NetworkID, x.EndpointID, x.MacAddress, x.DNSNames = end.NetworkID, network.EndpointID(end.NetworkID, c.ID), end.MAC, end.Names
	if end.IPv4.IsValid() {
		x.IPAddress, x.IPPrefixLen = end.IPv4.Addr().String(), end.IPv4.Bits()
	}
	if end.IPv6.IsValid() {
		x.GlobalIPv6Address, x.GlobalIPv6PrefixLen = end.IPv6.Addr().String(), end.IPv6.Bits()
	}
	if end.Gateway4.IsValid() {
		x.Gateway = end.Gateway4.String()
	}
	if end.Gateway6.IsValid() {
		x.IPv6Gateway = end.Gateway6.String()
	}
	return x
}
