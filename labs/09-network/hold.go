package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Held is a port of the host that is taken, so that nobody else gets it. The packets of a published port are rewritten before
// they come to a socket; without one, another program could take the port, and would wonder why nobody calls.
type Held struct {
	proto string
	addr  netip.AddrPort
	file  *os.File // the socket
}

// Hold takes a port, on all of the host's addresses of the family where the address is 0.0.0.0 or ::. Port 0 is one that is
// free. [TakenError] says who has it. Where the kernel has no SCTP there is nothing to hold, and that is no error.
func Hold(ctx context.Context, proto string, addr netip.AddrPort) (*Held, error) {
	h := &Held{proto: proto, addr: addr}
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("bind(%s/%s)", h.addr, proto) },
		h.bind)
	switch {
	case err == nil:
		return h, nil
	case errors.Is(err, unix.EADDRINUSE):
		taken := &TakenError{Proto: proto, Addr: addr}
		taken.Pid, taken.Command = whoHas(proto, addr)
		return nil, errors.Join(taken, h.Close())
	}
	return nil, errors.Join(&Error{"take port", fmt.Sprintf("%s/%s", addr, proto), err}, h.Close())
}

// bind makes the socket and, where connections are a matter of the kernel, lets it listen: two sockets may share a port as long
// as neither does.
func (h *Held) bind() error {
	kind, number := unix.SOCK_STREAM, int(protocol(h.proto))
	if h.proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	domain := unix.AF_INET
	if h.addr.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, number)
	if h.proto == "sctp" && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)) {
		return nil
	}
	if err != nil {
		return err
	}
	h.file = os.NewFile(uintptr(fd), h.proto)
	if kind == unix.SOCK_STREAM {
		// Connections of the last holder that are not quite over (TIME_WAIT) are no reason to wait for minutes.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if domain == unix.AF_INET6 { // or :: would be the IPv4 addresses, too
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, sockaddr(h.addr)); err != nil {
		return err
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return err
		}
	}
	return h.learn()
}

// learn asks the kernel which port it has become.
func (h *Held) learn() error {
	name, err := unix.Getsockname(int(h.file.Fd()))
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		h.addr = netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port))
	case *unix.SockaddrInet6:
		h.addr = netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port))
	}
	return err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// HeldFile takes over a socket that [Hold] has made in another process.
func HeldFile(proto string, f *os.File) (*Held, error) {
	h := &Held{proto: proto, file: f}
	if err := h.learn(); err != nil {
		return nil, errors.Join(&Error{"take over port", f.Name(), err}, f.Close())
	}
	return h, nil
}

// Addr is the address and the port that it has become.
func (h *Held) Addr() netip.AddrPort { return h.addr }

// Proto is "tcp", "udp" or "sctp".
func (h *Held) Proto() string { return h.proto }

// File is the socket, to be inherited by the process that is to hold it; nil if there is none. It is still the Held's.
func (h *Held) File() *os.File { return h.file }

// Close gives the port back.
func (h *Held) Close() error {
	if h.file == nil {
		return nil
	}
	return h.file.Close()
}

// listener is the socket as Go's own type: a copy of the descriptor.
func (h *Held) listener() (*net.TCPListener, error) {
	l, err := net.FileListener(h.file)
	if err != nil {
		return nil, &Error{"serve port", h.addr.String(), err}
	}
	return l.(*net.TCPListener), nil
}
