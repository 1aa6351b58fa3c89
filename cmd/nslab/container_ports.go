package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nslab/nslab/engine"
)

// shownPort is a port of a container, as PORTS shows it.
type shownPort struct {
	host      netip.AddrPort // invalid for a port that is not published
	container uint16
	proto     string
}

// portGroup are ports that follow one another, with the same numbers outside, if they are published at all.
type portGroup struct {
	address     netip.Addr
	proto       string
	first, last uint16
}

func (g *portGroup) String() string {
	numbers := strconv.Itoa(int(g.first))
	if g.first != g.last {
		numbers = fmt.Sprintf("%d-%d", g.first, g.last)
	}
	if !g.address.IsValid() {
		return numbers + "/" + g.proto
	}
	return fmt.Sprintf("%s:%s->%s/%s", bracketed(g.address), numbers, numbers, g.proto)
}

// bracketed is an address before a port.
func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// portsColumn is the column PORTS, in Docker's order: first what has the same number inside and outside, or none outside, several
// that follow one another as one; then what has not.
func portsColumn(c *engine.Container) string { return portWords(shownPorts(c)) }

func portWords(list []shownPort) string {
	var groups []*portGroup
	var words, mapped []string
	slices.SortFunc(list, func(a, b shownPort) int {
		return cmp.Or(cmp.Compare(a.container, b.container), a.host.Addr().Compare(b.host.Addr()), cmp.Compare(a.host.Port(), b.host.Port()),
			cmp.Compare(a.proto, b.proto))
	})
	for _, p := range list {
		if p.host.IsValid() && p.host.Port() != p.container {
			mapped = append(mapped, fmt.Sprintf("%s:%d->%d/%s", bracketed(p.host.Addr()), p.host.Port(), p.container, p.proto))
			continue
		}
		same := func(g *portGroup) bool { return g.address == p.host.Addr() && g.proto == p.proto }
		at := slices.IndexFunc(groups, same)
		switch {
		case at < 0:
			groups = append(groups, &portGroup{p.host.Addr(), p.proto, p.container, p.container})
		case groups[at].last+1 == p.container:
			groups[at].last++
		default: // the one before is complete, and comes before all that are not yet
			words = append(words, groups[at].String())
			groups[at] = &portGroup{p.host.Addr(), p.proto, p.container, p.container}
		}
	}
	for _, g := range groups {
		words = append(words, g.String())
	}
	return strings.Join(append(words, mapped...), ", ")
}

// shownPorts are those that are published, and those that are only said to be there.
func shownPorts(c *engine.Container) (list []shownPort) {
	published := map[string]bool{}
	if b := c.Sandbox(); b != nil {
		for _, p := range b.Ports {
			published[fmt.Sprintf("%d/%s", p.Container, p.Proto)] = true
			list = append(list, shownPort{p.Host, p.Container, p.Proto})
		}
	}
	for port := range c.Config.ExposedPorts {
		number, proto, _ := strings.Cut(port, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err == nil && !published[port] && len(c.Networks) > 0 {
			list = append(list, shownPort{container: uint16(n), proto: proto})
		}
	}
	return list
}
