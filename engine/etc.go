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

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
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

// writeInitLayer writes it, and makes the folders on which the kernel's file systems are mounted, so that they need not be
// made in the container's own layer.
func (c *Container) writeInitLayer(ctx context.Context) error {
	layer := c.path(initLayer)
	tree, err := rootfs.OpenTree(ctx, layer)
	if err != nil {
		return err
	}
	defer tree.Close()
	for _, d := range []string{"dev", "proc", "sys"} {
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
		return fmt.Errorf("make the init layer: %w", pathCause(err))
	}
	// Programs of old ask /etc/mtab what is mounted.
	if err := os.Symlink("/proc/mounts", filepath.Join(layer, "etc/mtab")); err != nil {
		return fmt.Errorf("make the init layer: %w", linkCause(err))
	}
	switch {
	case c.donor != nil:
		return copyEtc(filepath.Join(c.donor.path(initLayer), "etc"), layer, etcFiles, rootfs.Etc{})
	case c.HostConfig.NetworkMode == "host":
		return copyEtc("/etc", layer, []string{"hosts", "resolv.conf"}, etc)
	}
	return copyResolver(layer, etc)
}

func (c *Container) etc() (rootfs.Etc, error) {
	h := &c.HostConfig
	e := rootfs.Etc{Hostname: c.Config.Hostname, Search: h.DNSSearch, Options: h.DNSOptions, Bare: true}
	if d := c.Config.Domainname; d != "" && !strings.Contains(e.Hostname, ".") {
		e.Hostname += "." + d
	}
	for _, s := range h.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return e, &InputError{What: "DNS server", Value: s, Err: errors.New("it is not an IP address")}
		}
		e.Servers = append(e.Servers, a)
	}
	for _, x := range h.ExtraHosts {
		name, address, ok := strings.Cut(x, ":")
		if !ok {
			name, address, ok = strings.Cut(x, "=")
		}
		a, err := netip.ParseAddr(strings.Trim(address, "[]"))
		if !ok || err != nil || name == "" {
			return e, &InputError{What: "host entry", Value: x, Err: errors.New("it should be NAME:IP")}
		}
		e.Hosts = append(e.Hosts, rootfs.HostEntry{Address: a, Names: []string{name}})
	}
	return e, nil
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
			return fmt.Errorf("copy %s into the init layer: %w", filepath.Join(from, name), pathCause(err))
		}
	}
	return nil
}

// copyResolver gives the container the host's resolv.conf, but for servers on the host's own loopback: inside, nobody answers
// there.
func copyResolver(layer string, e rootfs.Etc) error {
	if resolves(e) {
		return nil
	}
	data, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the host's resolv.conf: %w", pathCause(err))
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
		return fmt.Errorf("write the container's resolv.conf: %w", pathCause(err))
	}
	return nil
}
