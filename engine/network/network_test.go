package network

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// TestChoose holds the order to Docker's, and keeps out of what is taken, whichever is the larger.
func TestChoose(t *testing.T) {
	for _, c := range []struct {
		taken []netip.Prefix
		want  string
	}{
		{nil, "172.17.0.0/16"},
		{prefixes("172.17.0.0/16"), "172.18.0.0/16"},
		{prefixes("172.17.200.7/32"), "172.18.0.0/16"},
		{prefixes("172.16.0.0/12"), "192.168.0.0/20"},
		{prefixes("172.16.0.0/12", "192.168.0.0/24"), "192.168.16.0/20"},
		{prefixes("172.16.0.0/12", "192.168.0.0/16"), "10.255.0.0/20"},
	} {
		if got, err := choose4(c.taken); err != nil || got.String() != c.want {
			t.Errorf("choose4(%v) = %v, %v; want %s", c.taken, got, err, c.want)
		}
	}
	if got, err := choose4(prefixes("0.0.0.0/1", "128.0.0.0/1")); err == nil {
		t.Errorf("choose4 of nothing = %v; want an error", got)
	}
	a, err1 := choose6(nil)
	b, err2 := choose6(nil)
	if err1 != nil || err2 != nil || a == b || !netip.MustParsePrefix("fd00::/8").Overlaps(a) || a.Bits() != 64 {
		t.Errorf("choose6 = %v, %v, %v, %v; want two different ones below fd00::/8", a, b, err1, err2)
	}
}

// TestFree gives out what hosts can have, and nothing that is somebody's.
func TestFree(t *testing.T) {
	p := Pool{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Gateway: netip.MustParseAddr("10.0.0.1"),
		Aux: map[string]netip.Addr{"printer": netip.MustParseAddr("10.0.0.3")}}
	used := map[netip.Addr]bool{}
	var got []string
	for {
		a, ok := p.free(used)
		if !ok {
			break
		}
		used[a] = true
		got = append(got, a.String())
	}
	if want := "[10.0.0.2 10.0.0.4 10.0.0.5 10.0.0.6]"; fmt.Sprint(got) != want {
		t.Errorf("given out: %v; want %s", got, want)
	}
	p.Range = netip.MustParsePrefix("10.0.0.4/30")
	if a, ok := p.free(nil); !ok || a.String() != "10.0.0.4" {
		t.Errorf("first of the range: %v, %v; want 10.0.0.4", a, ok)
	}
	six := Pool{Subnet: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")}
	if a, ok := six.free(nil); !ok || a.String() != "fd00::2" {
		t.Errorf("first of IPv6: %v, %v; want fd00::2", a, ok)
	}
}

// TestLeases has fifty containers claim at once: no address twice; those of the dead are found when they are needed.
func TestLeases(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	dead := map[string]bool{}
	s := Open(dir, filepath.Join(dir, "run"), func(id string) bool { mu.Lock(); defer mu.Unlock(); return !dead[id] })
	n := &Network{Name: "x", ID: "x", Driver: "bridge", Pools: []Pool{{Subnet: netip.MustParsePrefix("10.0.0.0/26"), Gateway: netip.MustParseAddr("10.0.0.1")}}}
	var all sync.WaitGroup
	given := map[netip.Addr]string{}
	for i := range 50 {
		all.Go(func() {
			id := fmt.Sprintf("%064d", i)
			a, err := s.claim(n, n.Pool4(), id, netip.Addr{})
			mu.Lock()
			defer mu.Unlock()
			if owner := given[a]; err != nil || owner != "" {
				t.Errorf("container %d: %v, %v; which %q has", i, a, err, owner)
			}
			given[a] = id
		})
	}
	all.Wait()
	for i := range 11 { // 61 in all, so these are the last
		if _, err := s.claim(n, n.Pool4(), fmt.Sprintf("%064d", 100+i), netip.Addr{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.claim(n, n.Pool4(), "late", netip.Addr{}); !errors.Is(err, ErrFull) || !errors.Is(err, errStale) {
		t.Errorf("of a full network: %v; want ErrFull", err)
	}
	third := netip.MustParseAddr("10.0.0.3")
	if err := s.claimThat(n, n.Pool4(), "late", third); !errors.Is(err, ErrTaken) || errors.Is(err, errStale) {
		t.Errorf("what another has: %v; want ErrTaken", err)
	}
	dead[given[third]] = true
	if err := s.claimThat(n, n.Pool4(), "late", third); !errors.Is(err, errStale) {
		t.Errorf("what a dead one has: %v; want errStale", err)
	}
	// Only its owner gives an address back.
	if err := s.Release(n.ID, third, "late"); err != nil {
		t.Fatal(err)
	}
	if err := s.claimThat(n, n.Pool4(), "late", third); err == nil {
		t.Error("it was given back by somebody else")
	}
	if err := s.Release(n.ID, third, given[third]); err != nil {
		t.Fatal(err)
	}
	if a, err := s.claim(n, n.Pool4(), "late", netip.Addr{}); err != nil || a != third {
		t.Errorf("after it was given back: %v, %v; want %v", a, err, third)
	}
}

// TestNames finds containers by all their names, and by their addresses.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir, filepath.Join(dir, "run"), func(string) bool { return true })
	b := &Sandbox{ID: "c1"}
	e := &Endpoint{NetworkID: "x", IPv4: netip.MustParsePrefix("10.0.0.2/24"), IPv6: netip.MustParsePrefix("fd00::2/64"), Names: []string{"Web", "alias"}}
	if err := s.Announce(b, e); err != nil {
		t.Fatal(err)
	}
	other := &Endpoint{NetworkID: "x", IPv4: netip.MustParsePrefix("10.0.0.3/24"), Names: []string{"alias"}}
	if err := s.Announce(&Sandbox{ID: "c2"}, other); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"web": "[10.0.0.2 fd00::2]", "alias": "[10.0.0.2 fd00::2 10.0.0.3]", "we": "[]", "../x": "[]", "web@c1": "[]"} {
		if got := s.AddressesOf("x", name); fmt.Sprint(got) != want {
			t.Errorf("%s is at %v; want %s", name, got, want)
		}
	}
	if err := s.ForgetNames(b, e); err != nil {
		t.Fatal(err)
	}
	if got := s.AddressesOf("x", "alias"); fmt.Sprint(got) != "[10.0.0.3]" {
		t.Errorf("alias is at %v afterwards; want [10.0.0.3]", got)
	}
}
