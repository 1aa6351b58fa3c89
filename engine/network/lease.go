package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
	stage "github.com/nslab/nslab/labs/09-network"
)

// Leases. All that gives addresses out is done under the shared lock of the store, all that takes them from the dead under the
// exclusive one; whoever gives his own back is alive, and needs none.

// errStale says that a container's address may be had from one that is dead, once somebody has swept.
var errStale = errors.New("addresses of dead containers are in the way")

// claim gives a container an address of the network's pool, the lowest that is free, or the one it wants. Of fifty that claim at
// once no two get the same, since symlink(2) makes a name for one of them only.
func (s *Store) claim(n *Network, p *Pool, id string, want netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		return want, s.claimThat(n, p, id, want)
	}
	dir := s.leases(n.ID)
	for {
		used, err := leased(dir)
		if err != nil {
			return netip.Addr{}, err
		}
		a, ok := p.free(used)
		if !ok {
			return netip.Addr{}, errors.Join(errStale, &Error{Network: n.Name, What: fmt.Sprintf("subnet %s", p.subnet()), Err: ErrFull,
				Hint: "remove containers that are not needed, or make a network with a larger --subnet"})
		}
		if err = take(dir, a, id); err == nil {
			return a, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return netip.Addr{}, err
		}
	}
}

// take makes the link, and the folder for it.
func take(dir string, a netip.Addr, id string) error {
	err := os.Symlink(id, filepath.Join(dir, a.String()))
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = os.Symlink(id, filepath.Join(dir, a.String()))
		}
	}
	if err != nil {
		return fmt.Errorf("claim the address %s: %w", a, jsonfile.Cause(err))
	}
	return nil
}

// claimThat claims one address.
func (s *Store) claimThat(n *Network, p *Pool, id string, a netip.Addr) error {
	switch {
	case !p.usable(a):
		return &Error{Network: n.Name, What: "address " + a.String(), Err: fmt.Errorf("it is none for a host in the network's subnet %s", p.Subnet)}
	case p.reserved(a):
		return &TakenError{Address: a, Network: n.Name}
	}
	err := take(s.leases(n.ID), a, id)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	owner, err := os.Readlink(filepath.Join(s.leases(n.ID), a.String()))
	switch {
	case err == nil && owner == id:
		return nil
	case err == nil && s.Alive(owner):
		return &TakenError{Address: a, Network: n.Name, Owner: owner}
	}
	return errors.Join(errStale, &TakenError{Address: a, Network: n.Name, Owner: owner})
}

func (p *Pool) subnet() netip.Prefix {
	if p.Range.IsValid() {
		return p.Range
	}
	return p.Subnet
}

// free is the lowest address that may be given out.
func (p *Pool) free(used map[netip.Addr]bool) (netip.Addr, bool) {
	r := p.subnet()
	a := r.Masked().Addr()
	for tries := len(used) + len(p.Aux) + 4; tries > 0 && r.Contains(a); tries-- {
		if p.usable(a) && !p.reserved(a) && !used[a] {
			return a, true
		}
		if a = a.Next(); !a.IsValid() {
			break
		}
	}
	return netip.Addr{}, false
}

func leased(dir string) (map[netip.Addr]bool, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the addresses in use: %w", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1) // in no order, which is none the worse
	if err != nil {
		return nil, fmt.Errorf("list the addresses in use: %w", err)
	}
	used := make(map[netip.Addr]bool, len(names))
	for _, name := range names {
		if a, err := netip.ParseAddr(name); err == nil {
			used[a] = true
		}
	}
	return used, nil
}

// Release gives an address back, if it is the container's.
func (s *Store) Release(networkID string, a netip.Addr, id string) error {
	name := filepath.Join(s.leases(networkID), a.String())
	if owner, err := os.Readlink(name); err != nil || owner != id {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give %s back: %w", name, jsonfile.Cause(err))
	}
	return nil
}

// Sweep removes what dead containers have in a network, and returns their ids.
func (s *Store) Sweep(ctx context.Context, networkID string) (dead []string, err error) {
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	return s.sweep(ctx, networkID)
}

// sweep is Sweep for one who has the lock. A link may have outlived its container, in a namespace that another one shares: it goes
// before its address can be another's.
func (s *Store) sweep(ctx context.Context, networkID string) (dead []string, err error) {
	living := map[string]bool{}
	alive := func(id string) bool {
		yes, known := living[id]
		if !known {
			yes = s.Alive(id)
			if living[id] = yes; !yes {
				dead = append(dead, id)
			}
		}
		return yes
	}
	for _, dir := range []string{s.leases(networkID), s.names(networkID)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return dead, fmt.Errorf("list %s: %w", dir, jsonfile.Cause(err))
		}
		for _, d := range entries {
			name := filepath.Join(dir, d.Name())
			_, id, isName := strings.Cut(d.Name(), "@")
			if !isName {
				if id, err = os.Readlink(name); err != nil {
					continue
				}
			}
			if alive(id) {
				continue
			}
			if !isName {
				link := stage.Endpoint{Name: s.kernel.link(networkID, id), Owner: s.kernel.owner(id)}
				if err := link.Detach(ctx); err != nil {
					return dead, err
				}
			}
			os.Remove(name)
		}
	}
	return dead, nil
}

// Users are the containers that are connected to a network just now.
func (s *Store) Users(n *Network) (ids []string, err error) {
	entries, err := os.ReadDir(s.leases(n.ID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the addresses in use: %w", jsonfile.Cause(err))
	}
	for _, d := range entries {
		id, err := os.Readlink(filepath.Join(s.leases(n.ID), d.Name()))
		if err == nil && !slices.Contains(ids, id) && s.Alive(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Connect gives a container its addresses in a network, found by its name, that nobody can remove from there on. The default
// bridge is made if need be.
func (s *Store) Connect(ctx context.Context, name, id string, want4, want6 netip.Addr) (n *Network, a4, a6 netip.Addr, err error) {
	swept := false
	for range 10 {
		n, a4, a6, err = s.connect(name, id, want4, want6)
		switch {
		case errors.Is(err, errUnmade):
			err = s.makeDefault(ctx)
		case errors.Is(err, errStale) && !swept:
			swept = true
			_, err = s.Sweep(ctx, n.ID)
		case errors.Is(err, errStale):
			return n, a4, a6, unstale(err)
		default:
			return n, a4, a6, err
		}
		if err != nil {
			return n, a4, a6, err
		}
	}
	return n, a4, a6, fmt.Errorf("use network %s: somebody removes it all the time", name)
}

// unstale is what there is to say, once sweeping has not helped.
func unstale(err error) error {
	var full *Error
	var taken *TakenError
	switch {
	case errors.As(err, &full):
		return full
	case errors.As(err, &taken):
		return taken
	}
	return err
}

// errUnmade is the default bridge before it was ever used.
var errUnmade = errors.New("the default bridge is not made yet")

func (s *Store) connect(name, id string, want4, want6 netip.Addr) (n *Network, a4, a6 netip.Addr, err error) {
	lock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, a4, a6, err
	}
	defer lock.Close()
	if n, err = s.Get(name); err != nil {
		return n, a4, a6, err
	}
	if n.Bridged() && len(n.Pools) == 0 {
		return n, a4, a6, errUnmade
	}
	for _, family := range []struct {
		pool *Pool
		want netip.Addr
		got  *netip.Addr
		what string
	}{{n.Pool4(), want4, &a4, "IPv4"}, {n.Pool6(), want6, &a6, "IPv6"}} {
		switch {
		case family.pool == nil && family.want.IsValid():
			err = &Error{Network: n.Name, What: "address " + family.want.String(), Err: fmt.Errorf("the network has no %s", family.what)}
		case family.pool == nil:
			continue
		case family.want.IsValid() && family.pool.Chosen:
			err = &Error{Network: n.Name, What: "address " + family.want.String(),
				Err:  errors.New("user specified IP address is supported only when connecting to networks with user configured subnets"),
				Hint: "make the network with --subnet"}
		default:
			*family.got, err = s.claim(n, family.pool, id, family.want)
		}
		if err != nil {
			if a4.IsValid() && family.what == "IPv6" {
				err = errors.Join(err, s.Release(n.ID, a4, id))
			}
			return n, netip.Addr{}, netip.Addr{}, err
		}
	}
	return n, a4, a6, nil
}

// makeDefault makes the default bridge.
func (s *Store) makeDefault(ctx context.Context) error {
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := s.read(Bridge); err == nil {
		return nil // somebody was faster
	}
	n := s.builtin(Bridge)
	n.Created = time.Now().UTC()
	return s.make(ctx, n, false)
}
