package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/jsonfile"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// The init layer: what no image can know, since it belongs to this container. /etc/hosts, hostname and resolv.conf lie between
// the image and the container's own layer, so that they are there from the start, and a commit does not take them.

// etcFiles are those of them that a network decides on: who shares one finds the same names.
var etcFiles = []string{"hosts", "hostname", "resolv.conf"}

// findNames decides on the host name, where the user has not: that of the host or of the other container, whose network this one
// shares, or else the beginning of its id.
func (c *Container) findNames(ctx context.Context) error {
	other, shared := strings.CutPrefix(c.HostConfig.NetworkMode, "container:")
	given := c.Config.Hostname != ""
	switch {
	case shared && given:
		return &InputError{What: "hostname", Value: c.Config.Hostname, Err: errors.New("conflicting options: hostname and the network mode")}
	case shared:
		donor, err := c.engine.Get(ctx, other)
		if err != nil {
			return err
		}
		c.Config.Hostname, c.donor = donor.Config.Hostname, donor
	case given:
	case c.HostConfig.NetworkMode == "host":
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host's name: %w", err)
		}
		c.Config.Hostname = name
	default:
		c.Config.Hostname = c.ID[:12]
	}
	return nil
}

// writeInitLayer writes it, and makes the folders on which the kernel's file systems are mounted where the image lacks them, so that
// they need not be made in the container's own layer.
func (c *Container) writeInitLayer(ctx context.Context) error {
	layer := c.path(initLayer)
	tree, err := rootfs.OpenTree(ctx, layer)
	if err != nil {
		return err
	}
	defer tree.Close()
	for _, d := range []string{"dev", "proc", "sys"} {
		if c.hasFolder(d) {
			continue
		}
		if err := os.Mkdir(filepath.Join(layer, d), 0o755); err != nil {
			return fmt.Errorf("make the init layer: %w", err)
		}
	}
	etc, err := c.etc()
	if err != nil {
		return err
	}
	if err := rootfs.WriteEtc(ctx, tree, etc); err != nil {
		return err
	}
	// By this file many programs know that they are in a container.
	if err := os.WriteFile(filepath.Join(layer, ".dockerenv"), nil, 0o755); err != nil {
		return fmt.Errorf("make the init layer: %w", jsonfile.Cause(err))
	}
	// Programs of old ask /etc/mtab what is mounted.
	if err := os.Symlink("/proc/mounts", filepath.Join(layer, "etc/mtab")); err != nil {
		return fmt.Errorf("make the init layer: %w", linkCause(err))
	}
	switch {
	case c.donor != nil:
		err := copyEtc(filepath.Join(c.donor.path(initLayer), "etc"), layer, etcFiles, rootfs.Etc{})
		return errors.Join(err, copyEtc(c.donor.path(resolveFolder), layer, etcFiles, rootfs.Etc{})) // what it got meanwhile
	case c.HostConfig.NetworkMode == "host":
		return copyEtc("/etc", layer, []string{"hosts", "resolv.conf"}, etc)
	}
	c.named = c.connection != nil
	return c.copyResolver(layer, etc)
}

// hasFolder tells whether the image has a folder directly below its root.
func (c *Container) hasFolder(name string) bool {
	for _, layer := range c.lower {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(layer, name), &st); err == nil {
			return st.Mode&unix.S_IFMT == unix.S_IFDIR
		}
		if c.Driver != unionfs.Overlay && unix.Lstat(filepath.Join(layer, ".wh."+name), &st) == nil {
			return false
		}
	}
	return false
}

// nameHosts brings the files up to date that say under which addresses the container is known: it may have got others than it
// had when it was made.
func (c *Container) nameHosts(ctx context.Context) error {
	if c.connection == nil || c.named {
		return nil
	}
	etc, err := c.etc()
	if err != nil {
		return err
	}
	tree, err := rootfs.OpenTree(ctx, c.path(initLayer))
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := rootfs.WriteEtc(ctx, tree, etc); err != nil {
		return err
	}
	c.named = true
	return c.copyResolver(c.path(initLayer), etc)
}

func (c *Container) etc() (rootfs.Etc, error) {
	h := &c.HostConfig
	e, err := c.resolverEtc(c.connection.resolver())
	if err != nil {
		return e, err
	}
	e.Hostname = c.Config.Hostname
	if d := c.Config.Domainname; d != "" && !strings.Contains(e.Hostname, ".") {
		e.Hostname += "." + d
	}
	for _, x := range h.ExtraHosts {
		name, address, ok := strings.Cut(x, ":")
		if !ok {
			name, address, ok = strings.Cut(x, "=")
		}
		if ok && address == hostGateway {
			var err error
			if address, err = c.hostGateway(); address == "" || err != nil {
				if err != nil {
					return e, err
				}
				continue // not known before the start
			}
		}
		a, err := netip.ParseAddr(strings.Trim(address, "[]"))
		if !ok || err != nil || name == "" {
			return e, &InputError{What: "host entry", Value: x, Err: errors.New("it should be NAME:IP")}
		}
		e.Hosts = append(e.Hosts, rootfs.HostEntry{Address: a, Names: []string{name}})
	}
	if c.connection == nil {
		return e, nil
	}
	own := []string{e.Hostname}
	if short, _, dotted := strings.Cut(e.Hostname, "."); dotted {
		own = append(own, short)
	}
	for _, end := range c.connection.sandbox.Endpoints {
		for _, p := range []netip.Prefix{end.IPv4, end.IPv6} {
			if p.IsValid() {
				e.Hosts = append(e.Hosts, rootfs.HostEntry{Address: p.Addr(), Names: own})
			}
		}
	}
	return e, nil
}

// resolverEtc is how the container finds names: from its monitor, or from servers that the user or the host has named.
func (c *Container) resolverEtc(monitor bool) (rootfs.Etc, error) {
	h := &c.HostConfig
	e := rootfs.Etc{Search: h.DNSSearch, Options: h.DNSOptions, Bare: true}
	for _, s := range h.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return e, &InputError{What: "DNS server", Value: s, Err: errors.New("it is not an IP address")}
		}
		e.Servers = append(e.Servers, a)
	}
	if own := resolves(e); own || monitor {
		c.fillResolver(&e)
	}
	if monitor {
		e.Servers = []netip.Addr{network.ResolverAddress.Addr()}
		if !slices.ContainsFunc(e.Options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
			e.Options = append(slices.Clone(e.Options), "ndots:0") // names without a dot are for us, too
		}
	}
	return e, nil
}

// hostGateway, in --add-host NAME:host-gateway, stands for the address under which the container reaches the host.
const hostGateway = "host-gateway"

func (c *Container) hostGateway() (string, error) {
	switch {
	case c.HostConfig.NetworkMode == network.Host:
		return "127.0.0.1", nil
	case !c.bridged():
		return "", &InputError{What: "host entry", Value: hostGateway, Err: errors.New("the container has no network that leads to the host")}
	case c.connection == nil:
		return "", nil
	}
	e := c.connection.sandbox.Gateway()
	switch {
	case e == nil:
		return "", &InputError{What: "host entry", Value: hostGateway, Err: errors.New("the container has no network that leads to the host")}
	case e.Gateway4.IsValid():
		return e.Gateway4.String(), nil
	}
	return e.Gateway6.String(), nil
}

// needsResolver tells whether the container is to ask its monitor for names: where it has a network whose containers know one
// another; and where the host asks itself, on its own loopback, to which no way leads from inside.
func (c *Container) needsResolver(networks []*network.Network) bool {
	if slices.ContainsFunc(networks, (*network.Network).UserDefined) {
		return true
	}
	if len(c.HostConfig.DNS) > 0 {
		return false
	}
	list := hostServers()
	return len(list) > 0 && !slices.ContainsFunc(list, func(a netip.Addr) bool { return !a.IsLoopback() })
}

// fillResolver takes from the host what nothing was said about, as Docker does: who names a server still searches the host's
// domains.
func (c *Container) fillResolver(e *rootfs.Etc) {
	data, _ := os.ReadFile("/etc/resolv.conf")
	var search, options []string
	for line := range strings.Lines(string(data)) {
		switch f := strings.Fields(line); {
		case len(f) < 2:
		case f[0] == "search" || f[0] == "domain":
			search = f[1:]
		case f[0] == "options":
			options = f[1:]
		}
	}
	clean := func(s string) bool {
		return strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f })
	}
	switch {
	case len(e.Search) == 0:
		e.Search = slices.DeleteFunc(search, clean)
	case len(e.Search) == 1 && e.Search[0] == ".":
		e.Search = nil
	}
	if len(e.Options) == 0 {
		e.Options = slices.DeleteFunc(options, clean)
	}
	if len(e.Servers) == 0 {
		for _, a := range hostServers() {
			if !a.IsLoopback() {
				e.Servers = append(e.Servers, a)
			}
		}
	}
}

// hostServers are those that the host asks for names.
func hostServers() (list []netip.Addr) {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				list = append(list, a)
			}
		}
	}
	return list
}

// resolves tells whether the user has said anything about how names are resolved.
func resolves(e rootfs.Etc) bool { return len(e.Servers)+len(e.Search)+len(e.Options) > 0 }

// copyEtc copies files into the layer's /etc, with the entries for hosts that were asked for.
func copyEtc(from, layer string, names []string, e rootfs.Etc) error {
	if resolves(e) {
		names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "resolv.conf" })
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && name == "hosts" {
			for _, h := range e.Hosts {
				data = fmt.Appendf(data, "%s\t%s\n", h.Address, strings.Join(h.Names, " "))
			}
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(layer, "etc", name), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("copy %s into the init layer: %w", filepath.Join(from, name), jsonfile.Cause(err))
		}
	}
	return nil
}

// copyResolver gives the container the host's resolv.conf, but for servers on the host's own loopback: inside, nobody answers
// there.
func (c *Container) copyResolver(layer string, e rootfs.Etc) error {
	if resolves(e) {
		return nil
	}
	data, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the host's resolv.conf: %w", jsonfile.Cause(err))
	}
	var kept bytes.Buffer
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil && a.IsLoopback() {
				continue
			}
		}
		kept.WriteString(lines.Text() + "\n")
	}
	if err := os.WriteFile(filepath.Join(layer, "etc/resolv.conf"), kept.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the container's resolv.conf: %w", jsonfile.Cause(err))
	}
	return nil
}
