package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/network"
	stage "github.com/nslab/nslab/labs/09-network"
)

// Ports of the host. Whoever publishes one holds it: a socket is bound to it as long as the container runs, by its monitor. So no
// other program gets it, `ss` shows who has it, and what the kernel's rules cannot lead to the container, such as ::1, still
// arrives somewhere.

// PortBinding is where a port of the container is found on the host: HostPort is a number, a range of which one is taken, or empty for
// any that is free.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// PortError is a port of the host that could not be had.
type PortError struct {
	Port  string // "8080/tcp"
	Owner string // "container web", "process 42 (nginx)"; empty if nobody can tell
	Err   error
}

func (e *PortError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("publish port %s of the host: %v", e.Port, e.Err)
	}
	return fmt.Sprintf("publish port %s of the host: %v: %s has it", e.Port, e.Err, e.Owner)
}

func (e *PortError) Unwrap() error { return e.Err }

// holdPorts takes all ports of the host that the container is to have.
func (c *Container) holdPorts(ctx context.Context) error {
	wanted, err := c.portBindings()
	if err != nil {
		return err
	}
	for _, port := range slices.SortedFunc(maps.Keys(wanted), comparePorts) {
		number, proto, err := parsePort(port)
		if err != nil {
			return err
		}
		for _, b := range wanted[port] {
			if err := c.holdPort(ctx, number, proto, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// portBindings are those that were asked for, and with -P all that the image or the user names.
func (c *Container) portBindings() (map[string][]PortBinding, error) {
	h := &c.HostConfig
	if !h.PublishAllPorts {
		return h.PortBindings, nil
	}
	all := maps.Clone(h.PortBindings)
	if all == nil {
		all = map[string][]PortBinding{}
	}
	for port := range c.Config.ExposedPorts {
		if _, has := all[port]; !has {
			all[port] = []PortBinding{{}}
		}
	}
	return all, nil
}

// comparePorts sorts "80/tcp" by number, then by protocol.
func comparePorts(a, b string) int {
	x, p, _ := parsePort(a)
	y, q, _ := parsePort(b)
	if x != y {
		return int(x) - int(y)
	}
	return strings.Compare(p, q)
}

// parsePort reads "80/tcp".
func parsePort(s string) (uint16, string, error) {
	number, proto, has := strings.Cut(s, "/")
	if !has {
		proto = "tcp"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return 0, "", &InputError{What: "port", Value: s, Err: errors.New("it should be a number from 1 to 65535")}
	}
	return uint16(n), proto, nil
}

// holdPort takes one port, for each family that is wanted: the same number for both.
func (c *Container) holdPort(ctx context.Context, port uint16, proto string, b PortBinding) error {
	low, high, err := portRange(b.HostPort)
	if err != nil {
		return err
	}
	addresses := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if b.HostIP != "" {
		a, err := netip.ParseAddr(b.HostIP)
		if err != nil {
			return &InputError{What: "host address", Value: b.HostIP, Err: errors.New("it is no IP address")}
		}
		addresses = []netip.Addr{a}
	}
	var last error
	for n := low; ; n++ {
		held, err := hold(ctx, proto, addresses, uint16(n))
		if err == nil {
			for _, h := range held {
				c.connection.held = append(c.connection.held, h)
				c.connection.sandbox.Ports = append(c.connection.sandbox.Ports, network.Published{Proto: proto, Container: port, Host: h.Addr()})
			}
			return nil
		}
		if last = c.portError(err, n, proto); n >= high || !errors.Is(err, stage.ErrTaken) {
			return last
		}
	}
}

// hold takes one number at all of the addresses. If any will do (0), the first address decides, and if another program has that at the
// second address, once more.
func hold(ctx context.Context, proto string, addresses []netip.Addr, port uint16) (held []*stage.Held, err error) {
	for range 20 {
		number := port
		for i, a := range addresses {
			h, e := stage.Hold(ctx, proto, netip.AddrPortFrom(a, number))
			if e != nil {
				err = e
				if i > 0 && noIPv6(e) {
					return held, nil // the host has only the one
				}
				break
			}
			held = append(held, h)
			number = h.Addr().Port()
		}
		if len(held) == len(addresses) {
			return held, nil
		}
		for _, h := range held {
			h.Close()
		}
		if held = nil; port != 0 || !errors.Is(err, stage.ErrTaken) {
			break
		}
	}
	return nil, err
}

// portRange reads "80", "8000-8010", or "" for any.
func portRange(s string) (low, high int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	first, second, ranged := strings.Cut(s, "-")
	a, err := strconv.ParseUint(first, 10, 16)
	b := a
	if err == nil && ranged {
		b, err = strconv.ParseUint(second, 10, 16)
	}
	if err != nil || b < a {
		return 0, 0, &InputError{What: "host port", Value: s, Err: errors.New("it should be a number from 0 to 65535, or two of them with a hyphen")}
	}
	return int(a), int(b), nil
}

// portError says whose a port is: a container's, if it is a monitor that holds it.
// noIPv6 tells whether a port could not be had since the host has no IPv6.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// relays are where the monitor is to carry what arrives at the ports that it holds.
func (c *Container) relays(job *monitor.Job) {
	if c.connection == nil {
		return
	}
	job.Networks = &monitor.Networks{Root: c.engine.Root, RunRoot: c.engine.RunRoot}
	for i, p := range c.connection.sandbox.Ports {
		if c.connection.held[i].File() == nil {
			continue
		}
		target, _ := c.connection.sandbox.RelayTarget(p)
		job.Networks.Relays = append(job.Networks.Relays, monitor.Relay{Proto: p.Proto, Target: target})
	}
}

func (c *Container) portError(err error, port int, proto string) error {
	e := &PortError{Port: fmt.Sprintf("%d/%s", port, proto), Err: err}
	var taken *stage.TakenError
	if !errors.As(err, &taken) {
		return e
	}
	e.Err = stage.ErrTaken
	switch {
	case taken.Owner != "":
		e.Owner = "container " + c.engine.nameOf(c.engine.networks.OwnerID(taken.Owner))
	case taken.Pid == 0:
	case taken.Pid == os.Getpid():
		e.Owner = "this container"
	default:
		e.Owner = fmt.Sprintf("process %d (%s)", taken.Pid, strings.Trim(taken.Command, `"`))
		if name := c.engine.monitorOf(taken.Pid); name != "" {
			e.Owner = "container " + name
		}
	}
	return e
}

// monitorOf names the container whose monitor a process is: nobody else has its lock open.
func (e *Engine) monitorOf(pid int) string {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		name, _ := os.Readlink(fd)
		if filepath.Base(name) != monitor.LockFile {
			continue
		}
		id := filepath.Base(filepath.Dir(name))
		if len(id) != 64 {
			continue
		}
		if filepath.Dir(filepath.Dir(name)) == e.runDir() {
			return e.nameOf(id)
		}
		return id[:12]
	}
	return ""
}

// nameOf is the name of a container, or, where that is not known, the beginning of its id.
func (e *Engine) nameOf(id string) string {
	var r Record
	if readJSON(filepath.Join(e.containersDir(), id, recordFile), &r) == nil && r.Name != "" {
		return r.Name
	}
	return id[:min(12, len(id))]
}
