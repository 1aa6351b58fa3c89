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

// portRun is a run of ports that follow one another, at one address.
type portRun struct {
	host      netip.AddrPort // invalid for a port that is not published
	container uint16
	count     uint16
	proto     string
}

func (r portRun) String() string {
	last := func(first uint16) string {
		if r.count == 1 {
			return strconv.Itoa(int(first))
		}
		return fmt.Sprintf("%d-%d", first, first+r.count-1)
	}
	if !r.host.IsValid() {
		return last(r.container) + "/" + r.proto
	}
	address := r.host.Addr().String()
	if r.host.Addr().Is6() {
		address = "[" + address + "]"
	}
	return fmt.Sprintf("%s:%s->%s/%s", address, last(r.host.Port()), last(r.container), r.proto)
}

// portsColumn is the column PORTS, as Docker writes it: what follows one another is one entry.
func portsColumn(c *engine.Container) string {
	var list []portRun
	published := map[string]bool{}
	if b := c.Sandbox(); b != nil {
		for _, p := range b.Ports {
			published[fmt.Sprintf("%d/%s", p.Container, p.Proto)] = true
			list = append(list, portRun{p.Host, p.Container, 1, p.Proto})
		}
	}
	for port := range c.Config.ExposedPorts {
		number, proto, _ := strings.Cut(port, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err == nil && !published[port] && len(c.Networks) > 0 {
			list = append(list, portRun{container: uint16(n), count: 1, proto: proto})
		}
	}
	slices.SortFunc(list, func(a, b portRun) int {
		return cmp.Or(cmp.Compare(a.proto, b.proto), a.host.Addr().Compare(b.host.Addr()), cmp.Compare(a.container, b.container),
			cmp.Compare(a.host.Port(), b.host.Port()))
	})
	var runs []portRun
	for _, p := range list {
		if n := len(runs); n > 0 {
			last := &runs[n-1]
			follows := last.proto == p.proto && last.host.Addr() == p.host.Addr() && last.container+last.count == p.container
			if follows && (!p.host.IsValid() || last.host.Port()+last.count == p.host.Port()) {
				last.count++
				continue
			}
		}
		runs = append(runs, p)
	}
	slices.SortStableFunc(runs, func(a, b portRun) int {
		return cmp.Or(cmp.Compare(a.container, b.container), cmp.Compare(a.proto, b.proto))
	})
	var words []string
	for _, r := range runs {
		words = append(words, r.String())
	}
	return strings.Join(words, ", ")
}
