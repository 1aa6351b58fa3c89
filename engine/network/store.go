package network

import (
	"context"
	"encoding/json"
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
)

// Store is the networks below one root.
type Store struct {
	dir    string // of what is durable
	runDir string // of what is gone at a reboot
	root   string
	kernel kernel

	// Alive tells whether a container runs, or is being started, so that what it has here is its own.
	Alive func(id string) bool
}

// Open opens a store. Nothing is read or made before it is needed.
func Open(root, runRoot string, alive func(id string) bool) *Store {
	return &Store{
		dir: filepath.Join(root, "networks"), runDir: filepath.Join(runRoot, "networks"), root: root,
		kernel: newKernel(runRoot), Alive: alive,
	}
}

func (s *Store) file(name string) string           { return filepath.Join(s.dir, name+".json") }
func (s *Store) leases(networkID string) string    { return filepath.Join(s.runDir, networkID, "leases") }
func (s *Store) names(networkID string) string     { return filepath.Join(s.runDir, networkID, "names") }
func (s *Store) runFolder(networkID string) string { return filepath.Join(s.runDir, networkID) }

// lock is held, shared, by who connects a container, and for itself alone by who makes or removes a network. The kernel frees
// it when its holder is gone.
func (s *Store) lock(how int) (*os.File, error) {
	name := filepath.Join(s.dir, ".lock")
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(s.dir, 0o700); err == nil {
			f, err = os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock the networks: %w", err)
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), how)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the networks: %w", err)
	}
	return f, nil
}

// builtin are the networks that every machine has. The default bridge has its pools once it was used.
func (s *Store) builtin(name string) *Network {
	n := &Network{ID: fixedID(s.root, name), Name: name, Driver: name, Options: map[string]string{}, Labels: map[string]string{}}
	switch name {
	case None:
		n.Driver = "null"
	case Bridge:
		n.Masquerade, n.Device = true, s.kernel.device(n)
		n.Options = map[string]string{
			optionDefault: "true", optionTalk: "true", optionMasquerade: "true", optionBinding: "0.0.0.0",
			optionName: n.Device, optionMTU: "1500",
		}
	}
	return n
}

// read returns a network by its name.
func (s *Store) read(name string) (*Network, error) {
	data, err := os.ReadFile(s.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{name}
	}
	if err != nil {
		return nil, fmt.Errorf("read network %s: %w", name, jsonfile.Cause(err))
	}
	n := &Network{}
	if err := json.Unmarshal(data, n); err != nil {
		return nil, fmt.Errorf("read network %s: %w", name, err)
	}
	return n, nil
}

// ByName finds a network by its name alone.
func (s *Store) ByName(name string) (*Network, error) {
	if CheckName(name) != nil {
		return nil, &NotFoundError{name}
	}
	n, err := s.read(name)
	if missing := (*NotFoundError)(nil); errors.As(err, &missing) && Predefined(name) {
		return s.builtin(name), nil
	}
	return n, err
}

// Get finds a network by its name, its id, or the beginning of its id. A name wins, as in Docker.
func (s *Store) Get(ref string) (*Network, error) {
	n, err := s.ByName(ref)
	var missing *NotFoundError
	if !errors.As(err, &missing) || ref == "" {
		return n, err
	}
	list, err := s.List()
	if err != nil && len(list) == 0 {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(n *Network) bool { return !strings.HasPrefix(n.ID, ref) })
	switch len(list) {
	case 0:
		return nil, missing
	case 1:
		return list[0], nil
	}
	return nil, &Error{What: "network " + show(ref), Err: fmt.Errorf("%d networks have an id that begins so", len(list))}
}

// List returns all networks, by name. What cannot be read is in the error, beside the rest.
func (s *Store) List() (list []*Network, err error) {
	names := []string{Bridge, Host, None}
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list networks: %w", jsonfile.Cause(err))
	}
	for _, d := range entries {
		if name, ok := strings.CutSuffix(d.Name(), ".json"); ok && !Predefined(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		n, err := s.ByName(name)
		if missing := (*NotFoundError)(nil); errors.As(err, &missing) {
			continue // removed meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, n)
	}
	return list, errors.Join(errs...)
}

// Create makes a network, with its bridge. All or nothing.
func (s *Store) Create(ctx context.Context, spec Spec, said func(string)) (*Network, error) {
	n, err := spec.check()
	if err != nil {
		return nil, err
	}
	if n.ID, err = newID(); err != nil {
		return nil, err
	}
	n.Created = time.Now().UTC()
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if _, err := os.Lstat(s.file(n.Name)); err == nil {
		return nil, &Error{What: "create network " + n.Name, Err: fmt.Errorf("network with name %s %w", n.Name, ErrExists)}
	}
	if err := s.make(ctx, n, spec.NoIPv4); err != nil {
		return nil, err
	}
	return n, s.forward(ctx, n, said)
}

// make chooses what is left open, makes the bridge and writes the network down. The caller has the lock. Whoever chooses a
// subnet, with whatever root, holds a lock of the kernel's until the bridge with it is there for all to see.
func (s *Store) make(ctx context.Context, n *Network, noIPv4 bool) (err error) {
	machine, err := s.kernel.lock(ctx)
	if err != nil {
		return err
	}
	defer machine.Close()
	if n.Device == "" {
		n.Device = s.kernel.device(n)
	}
	if err := s.choose(ctx, n, noIPv4); err != nil {
		return err
	}
	// The file comes first: should we be killed, the next command finds a network without a bridge, and makes that when it is
	// needed; a bridge that nobody knows would be in the way.
	if err := jsonfile.Replace(s.file(n.Name), n, true); err != nil {
		return err
	}
	if err := s.kernel.up(ctx, n); err != nil {
		return errors.Join(err, os.Remove(s.file(n.Name)))
	}
	return nil
}

// choose completes the pools, and refuses those that are taken.
func (s *Store) choose(ctx context.Context, n *Network, noIPv4 bool) error {
	others, err := s.List()
	if err != nil {
		return err
	}
	host, err := s.kernel.prefixes(ctx)
	if err != nil {
		return err
	}
	var taken []netip.Prefix
	for _, other := range others {
		for _, p := range other.Pools {
			for _, mine := range n.Pools {
				if mine.Subnet.Overlaps(p.Subnet) {
					return &Error{What: "subnet " + mine.Subnet.String(), Err: fmt.Errorf("%w network %s (%s)", ErrOverlap, other.Name, p.Subnet)}
				}
			}
			taken = append(taken, p.Subnet)
		}
		if other.Device == n.Device && other.Name != n.Name && other.Bridged() {
			return &Error{What: "bridge " + n.Device, Err: fmt.Errorf("network %s has it", other.Name), Hint: "take another name"}
		}
	}
	for _, mine := range n.Pools {
		if p := overlapping(mine.Subnet, host); p.IsValid() {
			return &Error{What: "subnet " + mine.Subnet.String(), Err: fmt.Errorf("%w %s, to which this host has a way", ErrOverlap, p),
				Hint: "take one that 'ip route' does not show, or let nslab choose"}
		}
	}
	taken = slices.Concat(taken, host, nameServers())
	if n.Pool4() == nil && !noIPv4 {
		p, err := choose4(taken)
		if err != nil {
			return &Error{What: "create network " + n.Name, Err: err, Hint: "remove networks, or name one: --subnet"}
		}
		n.Pools = append([]Pool{{Subnet: p, Chosen: true}}, n.Pools...)
	}
	if n.Pool6() == nil && n.EnableIPv6 {
		p, err := choose6(taken)
		if err != nil {
			return &Error{What: "create network " + n.Name, Err: err}
		}
		n.Pools = append(n.Pools, Pool{Subnet: p, Chosen: true})
	}
	return finish(n.Pools)
}

// Remove takes a network away that no container is connected to.
func (s *Store) Remove(ctx context.Context, ref string) (*Network, error) {
	n, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	if Predefined(n.Name) {
		return nil, &Error{Network: n.Name, Err: ErrPredefined}
	}
	return n, s.remove(ctx, n)
}

// RemoveDefault takes the default bridge away, if it was made and nobody has it. It tells whether it did.
func (s *Store) RemoveDefault(ctx context.Context) (bool, error) {
	n, err := s.read(Bridge)
	if missing := (*NotFoundError)(nil); errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = s.remove(ctx, n)
	if errors.Is(err, ErrInUse) {
		return false, nil
	}
	return err == nil, err
}

func (s *Store) remove(ctx context.Context, n *Network) error {
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	now, err := s.read(n.Name)
	if err != nil {
		return err
	}
	if now.ID != n.ID {
		return &NotFoundError{n.Name} // another one has its name
	}
	if _, err := s.sweep(ctx, n.ID); err != nil {
		return err
	}
	users, err := s.Users(n)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return &Error{Network: n.Name, Err: ErrInUse, Hint: "disconnect its containers first, or stop them"}
	}
	// The kernel's part first: should we be killed, the network is still known, and can be removed again, or used.
	if err := s.kernel.down(ctx, n); err != nil {
		return err
	}
	if err := os.RemoveAll(s.runFolder(n.ID)); err != nil {
		return fmt.Errorf("remove network %s: %w", n.Name, jsonfile.Cause(err))
	}
	if err := os.Remove(s.file(n.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network %s: %w", n.Name, jsonfile.Cause(err))
	}
	return nil
}
