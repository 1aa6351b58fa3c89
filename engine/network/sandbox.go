package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/jsonfile"
)

// SandboxFile is the name of a sandbox's file in the container's run folder.
const SandboxFile = "network.json"

// Sandbox is what a container that runs, or is about to, has of networks. It is written down before any of it is made: whoever
// finds it beside a dead container knows what to take back.
type Sandbox struct {
	ID        string // the container's
	Endpoints []*Endpoint
	Ports     []Published `json:",omitempty"`
	Resolver  bool        `json:",omitempty"` // its monitor answers for names
	Servers   []string    `json:",omitempty"` // whom the resolver asks for what it does not know; the host's own if empty
}

// Endpoint is one connection of a container with a network.
type Endpoint struct {
	Network   string
	NetworkID string
	Device    string // the bridge
	Link      string // the end on the host
	Inside    string // the one in the container: eth0
	MAC       string
	IPv4      netip.Prefix
	IPv6      netip.Prefix
	Gateway4  netip.Addr // no way out without it
	Gateway6  netip.Addr
	MTU       int      `json:",omitempty"`
	Names     []string `json:",omitempty"` // by which the other containers of the network find it
	Own       bool     `json:",omitempty"` // the user asked for these addresses
}

// Published is a port of the container on the host.
type Published struct {
	Proto     string
	Container uint16
	Host      netip.AddrPort
}

// Gateway is the endpoint through which the container reaches the world: the first that has a way out, and that ports are
// published to. It is nil if there is none.
func (b *Sandbox) Gateway() *Endpoint {
	for _, e := range b.Endpoints {
		if e.Gateway4.IsValid() || e.Gateway6.IsValid() {
			return e
		}
	}
	return nil
}

// Endpoint is the connection with one network.
func (b *Sandbox) Endpoint(networkID string) *Endpoint {
	for _, e := range b.Endpoints {
		if e.NetworkID == networkID {
			return e
		}
	}
	return nil
}

// Save writes a sandbox into a container's run folder.
func (b *Sandbox) Save(dir string) error {
	return jsonfile.Replace(filepath.Join(dir, SandboxFile), b, false)
}

// LoadSandbox reads it. A container that is not connected to anything has none: nil without an error.
func LoadSandbox(dir string) (*Sandbox, error) {
	data, err := os.ReadFile(filepath.Join(dir, SandboxFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the container has of networks: %w", jsonfile.Cause(err))
	}
	b := &Sandbox{}
	if err := json.Unmarshal(data, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, SandboxFile), err)
	}
	return b, nil
}

// Forget gives back what the files say that a container has: its addresses, its names, and at last the sandbox itself.
func (s *Store) Forget(b *Sandbox, dir string) error {
	var errs []error
	for _, e := range b.Endpoints {
		errs = append(errs, s.ForgetEndpoint(b, e))
	}
	if err := os.Remove(filepath.Join(dir, SandboxFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("give the networks back: %w", jsonfile.Cause(err)))
	}
	return errors.Join(errs...)
}

// ForgetEndpoint does so for one connection.
func (s *Store) ForgetEndpoint(b *Sandbox, e *Endpoint) error {
	errs := []error{s.ForgetNames(b, e)}
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() {
			errs = append(errs, s.Release(e.NetworkID, p.Addr(), b.ID))
		}
	}
	return errors.Join(errs...)
}

// Announce lets the other containers of the network find this one by its names.
func (s *Store) Announce(b *Sandbox, e *Endpoint) error {
	dir := s.names(e.NetworkID)
	var list []string
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() {
			list = append(list, p.Addr().String())
		}
	}
	for _, name := range e.Names {
		link := filepath.Join(dir, DNSName(name)+"@"+b.ID)
		err := os.Symlink(strings.Join(list, ","), link)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(dir, 0o700); err == nil {
				err = os.Symlink(strings.Join(list, ","), link)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("announce the name %s: %w", name, jsonfile.Cause(err))
		}
	}
	return nil
}

// ForgetNames takes that back.
func (s *Store) ForgetNames(b *Sandbox, e *Endpoint) error {
	for _, name := range e.Names {
		err := os.Remove(filepath.Join(s.names(e.NetworkID), DNSName(name)+"@"+b.ID))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take the name %s back: %w", name, jsonfile.Cause(err))
		}
	}
	return nil
}

// AddressesOf are those that a name stands for in a network: those of all living containers that have it.
func (s *Store) AddressesOf(networkID, name string) (list []netip.Addr) {
	for _, link := range s.announced(networkID) {
		if n, _, _ := strings.Cut(link, "@"); n != name {
			continue
		}
		text, _ := os.Readlink(filepath.Join(s.names(networkID), link))
		for a := range strings.SplitSeq(text, ",") {
			if a, err := netip.ParseAddr(a); err == nil {
				list = append(list, a)
			}
		}
	}
	return list
}

// NameOf is the name of the container that has an address in a network; empty if none has.
func (s *Store) NameOf(networkID string, a netip.Addr) string {
	id, err := os.Readlink(filepath.Join(s.leases(networkID), a.String()))
	if err != nil {
		return ""
	}
	b, err := LoadSandbox(s.containerDir(id))
	if err != nil || b == nil {
		return ""
	}
	if e := b.Endpoint(networkID); e != nil && len(e.Names) > 0 {
		return e.Names[0]
	}
	return ""
}

// announced are the links of the living.
func (s *Store) announced(networkID string) (list []string) {
	f, err := os.Open(s.names(networkID))
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	slices.Sort(names)
	for _, link := range names {
		if strings.Contains(link, "@") {
			list = append(list, link)
		}
	}
	return list
}

// SharedPrefix begins the names of files in a container's run folder that stand for containers which share its network
// namespace, and keep that alive.
const SharedPrefix = "shared-"
