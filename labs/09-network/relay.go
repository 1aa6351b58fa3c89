package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// idle is after how long a client of a UDP port that has said nothing, and was told nothing, is forgotten. UDP has no end of a
// connection that could be seen. It is what the kernel takes for its own table (nf_conntrack_udp_timeout_stream, 120 s).
const idle = 120 * time.Second

// most is how many UDP clients are served at a time; one more takes the place of none, and is not served.
const most = 1024

// Relay serves a held port by carrying what comes to the target and back, until ctx is done or the port is closed. It is for
// what the kernel does not rewrite: ::1 of the host, from where no packet may leave it, and IPv6 addresses of the host for a
// container that has IPv4 only. The container sees the host as its client. SCTP is not carried.
func (h *Held) Relay(ctx context.Context, target netip.AddrPort) error {
	switch h.proto {
	case "tcp":
		return h.relayTCP(ctx, target)
	case "udp":
		return h.relayUDP(ctx, target)
	}
	return nil
}

func (h *Held) relayTCP(ctx context.Context, target netip.AddrPort) error {
	l, err := h.listener()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		client, err := l.AcceptTCP()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // too many open files, say: whoever waits in the queue waits a little longer
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		all.Go(func() { carry(ctx, client, target) })
	}
}

// carry joins one client with the target. Each direction ends by itself, as TCP has it: a client that has sent all still gets
// its answer.
func carry(ctx context.Context, client *net.TCPConn, target netip.AddrPort) {
	defer client.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", target.String())
	if err != nil {
		client.SetLinger(0) // the client gets a reset, as from a port on which nobody listens
		return
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	var both sync.WaitGroup
	one := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil { // splice(2): the bytes stay in the kernel
			to.Close()
			return
		}
		to.CloseWrite()
	}
	both.Go(func() { one(server, client) })
	both.Go(func() { one(client, server) })
	both.Wait()
}

func (h *Held) relayUDP(ctx context.Context, target netip.AddrPort) error {
	c, err := net.FilePacketConn(h.file)
	if err != nil {
		return &Error{"serve port", h.addr.String(), err}
	}
	front := c.(*net.UDPConn)
	stop := context.AfterFunc(ctx, func() { front.Close() })
	defer stop()
	defer front.Close()
	r := &udpRelay{front: front, target: target, clients: map[netip.AddrPort]*net.UDPConn{}}
	defer r.close()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := front.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			continue // what an earlier answer could not do is told here
		}
		if back := r.client(from); back != nil {
			back.SetReadDeadline(time.Now().Add(idle))
			back.Write(buf[:n])
		}
	}
}

// udpRelay has a socket towards the target for each client, so that it knows whose an answer is.
type udpRelay struct {
	front  *net.UDPConn
	target netip.AddrPort

	mu      sync.Mutex
	clients map[netip.AddrPort]*net.UDPConn
	all     sync.WaitGroup
}

func (r *udpRelay) client(from netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if back := r.clients[from]; back != nil {
		return back
	}
	if len(r.clients) >= most {
		return nil
	}
	back, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.target))
	if err != nil {
		return nil
	}
	r.clients[from] = back
	r.all.Go(func() { r.answers(from, back) })
	return back
}

// answers carries what the target says back to its client.
func (r *udpRelay) answers(to netip.AddrPort, back *net.UDPConn) {
	defer func() {
		r.mu.Lock()
		delete(r.clients, to)
		r.mu.Unlock()
		back.Close()
	}()
	buf := make([]byte, 1<<16)
	for {
		n, err := back.Read(buf)
		if err != nil {
			return
		}
		back.SetReadDeadline(time.Now().Add(idle))
		r.front.WriteToUDPAddrPort(buf[:n], to)
	}
}

func (r *udpRelay) close() {
	r.mu.Lock()
	for _, back := range r.clients {
		back.Close()
	}
	r.mu.Unlock()
	r.all.Wait()
}
