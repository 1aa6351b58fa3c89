package opts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/docker/go-connections/nat"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
)

// Networks is --network, which may be given several times: a name, or name=NAME,alias=…,ip=….
type Networks struct{ list []engine.EndpointOptions }

// Set takes one value.
func (n *Networks) Set(value string) error {
	e := engine.EndpointOptions{Network: value}
	if strings.Contains(value, "=") {
		e = engine.EndpointOptions{}
		for field := range strings.SplitSeq(value, ",") {
			key, v, ok := strings.Cut(field, "=")
			if !ok {
				return fmt.Errorf("invalid field %s: it should be key=value", printable(field))
			}
			if err := setField(&e, strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(v)); err != nil {
				return err
			}
		}
	}
	if _, err := NetworkMode(e.Network); err != nil {
		return err
	}
	n.list = append(n.list, e)
	return nil
}

func setField(e *engine.EndpointOptions, key, value string) (err error) {
	switch key {
	case "name":
		e.Network = value
	case "alias":
		var alias string
		alias, err = Alias(value)
		e.Aliases = append(e.Aliases, alias)
	case "ip":
		e.IPv4, err = address(value, true)
	case "ip6":
		e.IPv6, err = address(value, false)
	case "mac-address":
		e.MAC, err = MAC(value)
	case "driver-opt", "gw-priority", "link-local-ip":
		return fmt.Errorf("%s: nslab has not got it yet", key)
	default:
		return fmt.Errorf("invalid field key %s: there are name, alias, ip, ip6 and mac-address", printable(key))
	}
	return err
}

// Values are the networks, in their order.
func (n *Networks) Values() []engine.EndpointOptions { return n.list }

func (n *Networks) String() string {
	var names []string
	for _, e := range n.list {
		names = append(names, e.Network)
	}
	return strings.Join(names, ",")
}

// Type is what the help calls it.
func (*Networks) Type() string { return "network" }

// NetworkMode checks the name of a network, or what stands in its place.
func NetworkMode(value string) (string, error) {
	switch {
	case value == "":
		return "", errors.New("no name set for network")
	case ofContainer(value):
		return value, nil
	case network.CheckName(value) != nil: // there can be none; which there are, the engine knows
		return "", fmt.Errorf("network %s not found", printable(value))
	}
	return value, nil
}

// Alias checks a name that a container is to have in a network.
func Alias(value string) (string, error) {
	if len(value) > maxDomain || !hostname(value) || strings.ContainsAny(value, "@") {
		return "", fmt.Errorf("invalid alias: %s is no name of a host", quoted(value))
	}
	return value, nil
}

func address(value string, v4 bool) (netip.Addr, error) {
	a, err := netip.ParseAddr(value)
	family := "IPv6"
	if v4 {
		family = "IPv4"
	}
	if err != nil || a.Zone() != "" || a.Is4() != v4 || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("invalid %s address: %s", family, printable(value))
	}
	return a, nil
}

// IPv4 checks --ip.
func IPv4(value string) (string, error) {
	a, err := address(value, true)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}

// IPv6 checks --ip6.
func IPv6(value string) (string, error) {
	a, err := address(value, false)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}

// MAC checks --mac-address: one that a single device can have.
func MAC(value string) (string, error) {
	a, err := net.ParseMAC(value)
	if err != nil || len(a) != 6 {
		return "", fmt.Errorf("%s is not a valid mac address", printable(value))
	}
	if a[0]&1 != 0 || a.String() == "00:00:00:00:00:00" {
		return "", fmt.Errorf("%s is not the address of one device", printable(value))
	}
	return a.String(), nil
}

// Publish checks --publish: [[ADDRESS:]HOST:]CONTAINER[/PROTOCOL], with ranges, or the long form target=…,published=….
func Publish(value string) (string, error) {
	spec := value
	if strings.Contains(value, "=") {
		var err error
		if spec, err = shortPort(value); err != nil {
			return "", err
		}
	}
	if err := plain("port", spec); err != nil {
		return "", err
	}
	_, _, err := Ports([]string{spec})
	return spec, err
}

// shortPort translates the long form.
func shortPort(value string) (string, error) {
	var target, published string
	proto := "tcp"
	for field := range strings.SplitSeq(value, ",") {
		key, v, ok := strings.Cut(field, "=")
		switch {
		case !ok || v == "":
			return "", fmt.Errorf("invalid field %s: it should be key=value", printable(field))
		case key == "target":
			target = v
		case key == "published":
			published = v
		case key == "protocol":
			proto = v
		case key == "mode" && (v == "host" || v == "ingress"):
		default:
			return "", fmt.Errorf("invalid field %s: there are target, published and protocol", printable(field))
		}
	}
	if target == "" {
		return "", fmt.Errorf("missing mandatory field target in %s", printable(value))
	}
	return published + ":" + target + "/" + proto, nil
}

// Ports are those of --publish: which ports of the container there are, and where on the host each is to be found.
func Ports(specs []string) (exposed map[string]struct{}, bindings map[string][]engine.PortBinding, err error) {
	exposed, bindings = map[string]struct{}{}, map[string][]engine.PortBinding{}
	for _, spec := range specs {
		list, err := nat.ParsePortSpec(strings.TrimPrefix(spec, ":"))
		if err != nil {
			return nil, nil, errors.New(printable(err.Error()))
		}
		for _, m := range list {
			if m.Port.Int() == 0 {
				return nil, nil, fmt.Errorf("invalid containerPort: %s: there is no port 0", printable(spec))
			}
			host := m.Binding.HostPort
			if host == "0" {
				host = "" // any that is free
			}
			port := m.Port.Port() + "/" + m.Port.Proto()
			exposed[port] = struct{}{}
			bindings[port] = append(bindings[port], engine.PortBinding{HostIP: m.Binding.HostIP, HostPort: host})
		}
	}
	return exposed, bindings, nil
}

// Expose checks --expose: a port or a range, with a protocol or for TCP.
func Expose(value string) (string, error) {
	_, err := Exposed([]string{value})
	return value, err
}

// Exposed are the ports of --expose.
func Exposed(specs []string) (map[string]struct{}, error) {
	all := map[string]struct{}{}
	for _, spec := range specs {
		if strings.Contains(spec, ":") {
			return nil, fmt.Errorf("invalid port format for --expose: %s", printable(spec))
		}
		proto, ports := nat.SplitProtoPort(spec)
		port, err := nat.NewPort(strings.ToLower(proto), ports)
		var low, high int
		if err == nil {
			low, high, err = port.Range()
		}
		if proto := port.Proto(); err == nil && proto != "tcp" && proto != "udp" && proto != "sctp" {
			err = errors.New("no such protocol")
		}
		if err != nil || low == 0 {
			return nil, fmt.Errorf("invalid range format for --expose: %s", printable(spec))
		}
		for n := low; n <= high; n++ {
			all[strconv.Itoa(n)+"/"+port.Proto()] = struct{}{}
		}
	}
	return all, nil
}
