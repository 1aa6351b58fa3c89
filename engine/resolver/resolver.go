// Package resolver answers a container's questions for names.
//
// Containers on a network that somebody has made find each other by name. That is a matter of DNS and not of /etc/hosts: a
// container that is started later has to be found, too, one that has moved must not be found where it was, and a name that
// several share is each of them in turn. So resolv.conf inside names 127.0.0.11, as in Docker, and there the container's
// monitor listens: a socket belongs to the network namespace that it was made in, whichever process has it.
//
// What it answers is read from the files that package network keeps, at each question: there is nothing that could be out of
// date, and nothing that takes memory between two questions. For all other names it asks whom the host asks, from where the
// host is; so a resolver on the host's own loopback works for containers, too.
//
// The messages are read and written by golang.org/x/net/dns/dnsmessage. See RFC 1035.
package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/engine/pages"
	stage "github.com/nslab/nslab/labs/09-network"
)

// Server is a resolver.
type Server struct {
	udp, tcp *stage.Held
	lookup   Lookup
	slots    chan struct{} // a place for each question that is being answered

	mu    sync.Mutex
	quiet *time.Timer
}

// busy is how many questions are answered at a time. More than that are not read before: the kernel's queue holds, and then drops
// them, and who asks asks again.
const busy = 64

// Listen takes the resolver's sockets inside a network namespace, and brings its lo up, where the resolver's address lies.
func Listen(ctx context.Context, namespace string) (*Server, error) {
	ns, err := stage.OpenNamespace(ctx, namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	s := &Server{slots: make(chan struct{}, busy)}
	at := netip.AddrPortFrom(network.ResolverAddress.Addr(), network.ResolverPort)
	err = ns.Do(ctx, func(ctx context.Context) error {
		if err := stage.LoopbackUp(ctx); err != nil {
			return err
		}
		if s.udp, err = stage.Hold(ctx, "udp", at); err != nil {
			return err
		}
		s.tcp, err = stage.Hold(ctx, "tcp", at)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends it.
func (s *Server) Close() error {
	var errs []error
	for _, h := range []*stage.Held{s.udp, s.tcp} {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	return errors.Join(errs...)
}

// Serve answers from now on.
func (s *Server) Serve(l Lookup) error {
	s.lookup = l
	packets, err := net.FilePacketConn(s.udp.File())
	if err != nil {
		return err
	}
	streams, err := net.FileListener(s.tcp.File())
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	go s.serveUDP(packets.(*net.UDPConn))
	go s.serveTCP(streams)
	return nil
}

// most is the largest message that is read by UDP, and what a client may say that it takes (RFC 6891).
const most = 4096

func (s *Server) serveUDP(c *net.UDPConn) {
	for {
		s.slots <- struct{}{}
		buf := make([]byte, most)
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		go func() {
			defer s.done()
			if answer := s.lookup.answer(buf[:n], false); answer != nil {
				c.WriteToUDPAddrPort(answer, from)
			}
		}()
	}
}

func (s *Server) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(50 * time.Millisecond) // too many open files
			continue
		}
		s.slots <- struct{}{}
		go func() {
			defer s.done()
			defer c.Close()
			for {
				c.SetDeadline(time.Now().Add(10 * time.Second))
				q, err := readFrame(c)
				if err != nil {
					return
				}
				answer := s.lookup.answer(q, true)
				if answer == nil || writeFrame(c, answer) != nil {
					return
				}
			}
		}()
	}
}

// done gives a place back; a while after the last question, memory too.
func (s *Server) done() {
	<-s.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet == nil {
		s.quiet = time.AfterFunc(time.Second, pages.Settle)
	} else {
		s.quiet.Reset(time.Second)
	}
}

// By TCP each message has its length before it: RFC 1035, 4.2.2.
func readFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, buf)
	return buf, err
}

func writeFrame(w io.Writer, message []byte) error {
	if len(message) > 0xffff {
		return io.ErrShortWrite
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}
