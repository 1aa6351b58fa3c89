package network

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// Spec is a network that somebody wants to have, in the words of the command line.
type Spec struct {
	Name       string
	Driver     string
	Internal   bool
	IPv6       bool
	NoIPv4     bool
	Attachable bool
	Subnets    []string
	Ranges     []string
	Gateways   []string
	Aux        map[string]string
	Options    map[string]string
	Labels     map[string]string
}

// Options that change what the kernel does. All others are refused: none is to be ignored in silence.
const (
	optionName       = "com.docker.network.bridge.name"
	optionMTU        = "com.docker.network.driver.mtu"
	optionOldMTU     = "com.docker.network.mtu"
	optionMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optionDefault    = "com.docker.network.bridge.default_bridge"
	optionTalk       = "com.docker.network.bridge.enable_icc"
	optionBinding    = "com.docker.network.bridge.host_binding_ipv4"
)

// namePattern is that of containers; Docker takes any text, which then breaks out of tables.
var namePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`) })

const maxName = 128

// CheckName says what is wrong with a network's name, which becomes a file's.
func CheckName(name string) error {
	if len(name) > maxName || !namePattern().MatchString(name) {
		return ErrName
	}
	return nil
}

// check refuses what can be told without looking at the machine, and returns the network as far as it is decided by that.
func (s *Spec) check() (*Network, error) {
	if err := CheckName(s.Name); err != nil {
		return nil, &Error{What: fmt.Sprintf("invalid network name %q", s.Name), Err: err}
	}
	switch {
	case Predefined(s.Name), s.Name == "default", s.Name == "container":
		return nil, &Error{What: "operation is not permitted", Err: fmt.Errorf("%s is the name of a predefined network", s.Name), Hint: "take another name"}
	case s.Driver == "host" || s.Driver == "null" || s.Driver == "none":
		return nil, &Error{What: "create network " + s.Name, Err: fmt.Errorf("only one instance of %q network is allowed", s.Driver), Hint: "it is there already: --network " + strings.Replace(s.Driver, "null", None, 1)}
	case s.Driver != "bridge":
		return nil, &Error{What: "create network " + s.Name, Err: fmt.Errorf("plugin %q not found", s.Driver), Hint: "the only driver is bridge"}
	case s.NoIPv4 && !s.IPv6:
		return nil, &Error{What: "create network " + s.Name, Err: errors.New("IPv4 or IPv6 must be enabled")}
	}
	n := &Network{
		Name: s.Name, Driver: s.Driver, EnableIPv6: s.IPv6, Internal: s.Internal, Attachable: s.Attachable,
		Options: orEmpty(s.Options), Labels: orEmpty(s.Labels), Masquerade: true,
	}
	for key, value := range s.Labels {
		if strings.ContainsFunc(key+value, unicode.IsControl) {
			return nil, &Error{What: fmt.Sprintf("label %q", key), Err: errors.New("it has a control character")}
		}
	}
	if err := n.options(); err != nil {
		return nil, err
	}
	var err error
	if n.Pools, err = s.pools(); err != nil {
		return nil, err
	}
	if n.Pool6() != nil && !n.EnableIPv6 {
		return nil, &Error{What: "subnet " + n.Pool6().Subnet.String(), Err: errors.New("IPv6 is not enabled on this network"), Hint: "add --ipv6"}
	}
	if n.Pool4() != nil && s.NoIPv4 {
		return nil, &Error{What: "subnet " + n.Pool4().Subnet.String(), Err: errors.New("IPv4 is disabled on this network")}
	}
	return n, nil
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// options reads --opt.
func (n *Network) options() error {
	for key, value := range n.Options {
		wrong := func(why string) error {
			return &Error{What: fmt.Sprintf("option %s=%q", quoted(key), value), Err: errors.New(why)}
		}
		switch key {
		case optionName:
			if err := checkDevice(value); err != nil {
				return wrong(err.Error())
			}
			n.Device = value
		case optionMTU, optionOldMTU:
			mtu, err := strconv.Atoi(value)
			if err != nil || mtu < 68 || mtu > 65535 { // RFC 791; what a veth can have
				return wrong("it should be a number from 68 to 65535")
			}
			n.MTU = mtu
		case optionMasquerade:
			yes, err := strconv.ParseBool(value)
			if err != nil {
				return wrong("it should be true or false")
			}
			n.Masquerade = yes
		case optionTalk, optionDefault:
			if yes, err := strconv.ParseBool(value); err != nil || yes != (key == optionTalk) {
				return wrong("nslab has no other way than the usual one")
			}
		case optionBinding:
			if value != "0.0.0.0" {
				return wrong("name the address with each port: -p ADDRESS:PORT:PORT")
			}
		default:
			e := wrong("nslab does not know it").(*Error)
			e.Hint = "there are " + optionName + ", " + optionMTU + " and " + optionMasquerade
			return e
		}
	}
	return nil
}

// checkDevice is the kernel's dev_valid_name, and a little stricter: the name is shown.
func checkDevice(name string) error {
	switch {
	case name == "" || len(name) > 15:
		return errors.New("a network device's name has 1 to 15 characters")
	case name == "." || name == "..", strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/:%"'\`, r)
	}):
		return errors.New("no network device can have this name")
	case name == "lo" || name == "all" || name == "default":
		return errors.New("the kernel has this name for something else")
	}
	return nil
}

// pools puts together what belongs to one subnet, as Docker's command line does.
func (s *Spec) pools() (list []Pool, err error) {
	for _, text := range s.Subnets {
		p, err := netip.ParsePrefix(text)
		if err == nil {
			err = checkSubnet(p)
		} else {
			err = errors.New("it is no subnet like 10.1.0.0/24")
		}
		if err != nil {
			return nil, &Error{What: fmt.Sprintf("invalid subnet %s", show(text)), Err: err}
		}
		for _, q := range list {
			switch {
			case p.Overlaps(q.Subnet):
				return nil, &Error{What: fmt.Sprintf("invalid subnet %s", p), Err: fmt.Errorf("%w %s", ErrOverlap, q.Subnet)}
			case p.Addr().Is4() == q.Subnet.Addr().Is4():
				return nil, &Error{What: fmt.Sprintf("invalid subnet %s", p), Err: errors.New("a bridge has one subnet of each family")}
			}
		}
		list = append(list, Pool{Subnet: p})
	}
	if len(list) == 0 && len(s.Ranges)+len(s.Gateways)+len(s.Aux) > 0 {
		return nil, &Error{What: "create network " + s.Name, Err: errors.New("every ip-range or gateway must have a corresponding subnet"), Hint: "add --subnet"}
	}
	find := func(p netip.Prefix) *Pool {
		i := slices.IndexFunc(list, func(q Pool) bool { return q.Subnet.Contains(p.Addr()) && q.Subnet.Bits() <= p.Bits() })
		if i < 0 {
			return nil
		}
		return &list[i]
	}
	for _, text := range s.Ranges {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, &Error{What: "invalid ip-range " + show(text), Err: errors.New("it is no subnet like 10.1.0.0/28")}
		}
		p := find(r)
		switch {
		case p == nil:
			return nil, &Error{What: "ip-range " + text, Err: errors.New("no matching subnet for it")}
		case p.Range.IsValid():
			return nil, &Error{What: "ip-range " + text, Err: fmt.Errorf("cannot configure multiple ranges on the same subnet (%s)", p.Subnet)}
		}
		p.Range = r.Masked()
	}
	for _, text := range s.Gateways {
		a, p, err := s.host("gateway", text, find)
		switch {
		case err != nil:
			return nil, err
		case p.Gateway.IsValid():
			return nil, &Error{What: "gateway " + text, Err: fmt.Errorf("cannot configure multiple gateways for the same subnet (%s)", p.Subnet)}
		}
		p.Gateway = a
	}
	for name, text := range s.Aux {
		a, p, err := s.host("aux-address "+show(name), text, find)
		switch {
		case err != nil:
			return nil, err
		case strings.ContainsFunc(name, unicode.IsControl):
			return nil, &Error{What: "aux-address " + show(name), Err: errors.New("its name has a control character")}
		case p.Aux == nil:
			p.Aux = map[string]netip.Addr{}
		}
		p.Aux[name] = a
	}
	return list, finish(list)
}

// host reads an address that a host in one of the pools can have.
func (s *Spec) host(what, text string, find func(netip.Prefix) *Pool) (netip.Addr, *Pool, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, nil, &Error{What: fmt.Sprintf("invalid %s %s", what, show(text)), Err: errors.New("it is no IP address")}
	}
	p := find(netip.PrefixFrom(a, a.BitLen()))
	switch {
	case p == nil:
		return a, nil, &Error{What: what + " " + text, Err: errors.New("no matching subnet for it")}
	case !p.usable(a):
		return a, nil, &Error{What: what + " " + text, Err: errors.New("no host can have this address")}
	}
	return a, p, nil
}

// finish gives pools without a gateway one: the first address, as Docker does, that is not somebody else's.
func finish(pools []Pool) error {
	for i := range pools {
		p := &pools[i]
		if p.Gateway.IsValid() {
			continue
		}
		a := first(p.Subnet)
		for p.usable(a) && p.reserved(a) {
			a = a.Next()
		}
		if !p.usable(a) {
			return &Error{What: "subnet " + p.Subnet.String(), Err: errors.New("no address is left for the gateway")}
		}
		p.Gateway = a
	}
	return nil
}

// show is what somebody typed, on one line.
func show(text string) string {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}
