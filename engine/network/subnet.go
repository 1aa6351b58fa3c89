package network

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Subnets. Those that nslab chooses are Docker's, in Docker's order, but for what the host has a way to already: a container
// must not hide a company's network behind a bridge.

// candidates calls f with each subnet that may be chosen, until it returns false.
func candidates(f func(netip.Prefix) bool) {
	for i := byte(17); i <= 31; i++ {
		if !f(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i, 0, 0}), 16)) {
			return
		}
	}
	for i := 0; i < 256; i += 16 {
		if !f(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 20)) {
			return
		}
	}
	// Docker ends here, after 31 networks. What comes next is as private: RFC 1918's third block, from above, since people
	// begin below.
	for i := 255; i >= 128; i-- {
		for j := 0; j < 256; j += 16 {
			if !f(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(j), 0}), 20)) {
				return
			}
		}
	}
}

// choose4 finds a subnet that does not overlap what is taken.
func choose4(taken []netip.Prefix) (netip.Prefix, error) {
	var found netip.Prefix
	candidates(func(p netip.Prefix) bool {
		if overlapping(p, taken).IsValid() {
			return true
		}
		found = p
		return false
	})
	if !found.IsValid() {
		return found, errors.New("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network")
	}
	return found, nil
}

// choose6 draws a subnet of unique local addresses, as RFC 4193 wants it: by chance, so that no two networks that are ever
// joined have the same.
func choose6(taken []netip.Prefix) (netip.Prefix, error) {
	for range 100 {
		a := [16]byte{0xfd}
		if _, err := rand.Read(a[1:6]); err != nil {
			return netip.Prefix{}, fmt.Errorf("draw a subnet: %w", err)
		}
		if p := netip.PrefixFrom(netip.AddrFrom16(a), 64); !overlapping(p, taken).IsValid() {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("could not find an available IPv6 address pool")
}

func overlapping(p netip.Prefix, list []netip.Prefix) netip.Prefix {
	for _, q := range list {
		if q.IsValid() && p.Overlaps(q) {
			return q
		}
	}
	return netip.Prefix{}
}

// nameServers are the addresses in the host's resolv.conf: a subnet over them would take the host's names away.
func nameServers() (list []netip.Prefix) {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) < 2 || w[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(w[1]); err == nil {
			a = a.WithZone("")
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return list
}

// checkSubnet refuses what no network of containers can have.
func checkSubnet(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case p != p.Masked():
		return fmt.Errorf("it should be %s", p.Masked())
	case a.Is4In6():
		return errors.New("it is an IPv4 address in IPv6's clothes")
	case p.Bits() > a.BitLen()-2:
		return fmt.Errorf("it has no room: a /%d is the smallest", a.BitLen()-2)
	case a.Is4() && p.Bits() < 8, a.Is6() && p.Bits() < 16:
		return errors.New("it is far too large")
	case a.IsLoopback(), a.IsMulticast(), a.IsUnspecified(), a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return errors.New("such addresses are not for hosts")
	case a.IsLinkLocalUnicast() && a.Is6():
		return errors.New("link-local addresses need no network")
	}
	return nil
}

// first is the first address of a subnet that a host may have.
func first(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// last is the highest address of a prefix: for IPv4 the one that means all of them.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// usable tells whether a host may have an address of the pool.
func (p *Pool) usable(a netip.Addr) bool {
	if !p.Subnet.Contains(a) || a == p.Subnet.Masked().Addr() {
		return false
	}
	return a.Is6() || a != last(p.Subnet)
}

// reserved tells whether an address is not for containers, although it could be a host's.
func (p *Pool) reserved(a netip.Addr) bool {
	if a == p.Gateway {
		return true
	}
	for _, aux := range p.Aux {
		if a == aux {
			return true
		}
	}
	return false
}

// newID draws the number of a network.
func newID() (string, error) {
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("number a network: %w", err)
	}
	return hex.EncodeToString(b), nil
}
