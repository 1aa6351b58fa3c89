package stream

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxQueue is how much is kept for a client after the container's end: more than pipes hold, so only what processes that
// outlived it print in its name can be so much.
const maxQueue = 4 << 20

// peer is a client as the hub knows it.
type peer struct {
	hub   *Hub
	f     *os.File
	raw   syscall.RawConn
	first bool // it was there from the start, and is waited for
	known bool // it is in the hub's list
	stdin bool // it types; the receiving goroutine's
	wants [frameStderr + 1]atomic.Bool

	mu       sync.Mutex
	gone     bool
	left     []byte // what is being written
	progress bool   // some of it was taken since the deadline was set
	failed   bool
	queue    []byte                // what comes after, when nobody waits any more
	write    func(fd uintptr) bool // tryWrite, and the same for Control: made once, they are no garbage
	once     func(fd uintptr)
}

// Client says how somebody takes part.
type Client struct {
	Stdin, Stdout, Stderr bool
}

// Add attaches a client that is connected, before Start if it is to get all output. It is waited for when it reads slowly.
// The hub takes over conn.
func (h *Hub) Add(conn *os.File, c Client) error {
	p, err := h.newPeer(conn)
	if err != nil {
		return err
	}
	p.first = true
	h.admit(p, c)
	p.peek()
	go p.receive()
	return nil
}

// peek applies the size of the window that a client sends with its hello, if it is there already, so that the program starts
// with it. It takes nothing away, and passes over nothing: what is typed may be more than the program reads before it starts.
func (p *peer) peek() {
	var b [64]byte
	var n int
	err := p.raw.Control(func(fd uintptr) {
		n, _, _ = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if err != nil || n <= 0 {
		return
	}
	var d decoder
	// Its errors are found again by receive.
	_ = d.decode(b[:n], func(kind byte, payload []byte) error {
		switch kind {
		case frameHello:
			return nil
		case frameResize:
			return p.handle(kind, payload)
		}
		return errProtocol
	})
}

// Listen lets clients connect at path, which may be longer than the address of a socket. A socket that is there is replaced:
// the caller knows that no other monitor lives.
func (h *Hub) Listen(path string) error {
	l, err := listen(path)
	if err != nil {
		return err
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("listen at %s: %w", path, err)
	}
	h.mu.Lock()
	h.listener, h.path = l, path
	h.mu.Unlock()
	go h.accept(raw)
	return nil
}

// accept takes connections until the listener is closed.
func (h *Hub) accept(raw syscall.RawConn) {
	for {
		var fd int
		var err error
		cerr := raw.Read(func(l uintptr) bool {
			fd, _, err = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return err != unix.EAGAIN
		})
		switch {
		case cerr != nil:
			return
		case err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOMEM || err == unix.ENOBUFS:
			// It passes when a client leaves; the one at the door waits.
			time.Sleep(100 * time.Millisecond)
			continue
		case err != nil:
			continue // the client did not wait: ECONNABORTED and the like
		}
		p, err := h.newPeer(os.NewFile(uintptr(fd), "client"))
		if err != nil {
			continue
		}
		go p.receive() // it takes part when it has said hello
	}
}

func (h *Hub) newPeer(conn *os.File) (*peer, error) {
	conn, err := pollable(conn)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &peer{hub: h, f: conn, raw: raw}
	p.write = p.tryWrite
	p.once = func(fd uintptr) { p.tryWrite(fd) }
	return p, nil
}

// admit lets a client take part.
func (h *Hub) admit(p *peer, c Client) {
	p.wants[frameStdout].Store(c.Stdout)
	p.wants[frameStderr].Store(c.Stderr)
	flags := byte(0)
	if h.cfg.Terminal != nil {
		flags |= hasTerminal
	}
	if h.stdin.f != nil {
		flags |= hasStdin
		if c.Stdin {
			h.wantStdin(p)
		} else if p.stdin {
			h.endStdin(p, true)
		}
	}
	if p.known {
		return
	}
	p.known = true
	p.send(frame(frameReady, version, flags))
	h.mu.Lock()
	h.peers = append(h.peers[:len(h.peers):len(h.peers)], p)
	h.mu.Unlock()
	if h.draining.Load() {
		p.f.SetWriteDeadline(past)
	}
}

var errDetached = errors.New("detached")

// receive handles what a client sends, until it is gone.
func (p *peer) receive() {
	mem := p.hub.buffer()
	var (
		d     decoder
		n     int
		rerr  error
		large bool // more than a page of mem was used
	)
	read := func(fd uintptr) bool {
		buf := mem.Get(headerSize + maxPayload)
		for {
			n, rerr = unix.Read(int(fd), buf)
			if rerr != unix.EINTR {
				break
			}
		}
		if rerr != unix.EAGAIN {
			return true
		}
		if large {
			// Nothing more for now. What is typed fits into one page, which stays; a file does not.
			large = false
			mem.Release()
		}
		return false
	}
	var err error
	for err == nil {
		if err = p.raw.Read(read); err != nil || rerr != nil || n == 0 {
			break
		}
		large = large || n > os.Getpagesize()
		err = d.decode(mem.Get(headerSize + maxPayload)[:n], p.handle)
	}
	p.hub.giveBack(mem)
	p.hub.remove(p, errors.Is(err, errDetached))
}

// handle is called for each frame of a client.
func (p *peer) handle(kind byte, payload []byte) error {
	h := p.hub
	switch kind {
	case frameHello:
		if len(payload) < 2 || payload[0] != version {
			return errProtocol
		}
		h.admit(p, Client{
			Stdin:  payload[1]&wantStdin != 0,
			Stdout: payload[1]&wantStdout != 0,
			Stderr: payload[1]&wantStderr != 0,
		})
	case frameStdin:
		if p.stdin {
			h.stdin.write(payload)
		}
	case frameCloseStdin:
		h.endStdin(p, false)
	case frameResize:
		size, err := parseSize(payload)
		if err != nil {
			return err
		}
		h.resize(size)
	case frameDetach:
		return errDetached
	case frameAsk:
		if h.cfg.Ask == nil {
			return errProtocol
		}
		text := ""
		if err := h.cfg.Ask(string(payload)); err != nil {
			text = err.Error()
		}
		p.send(frame(frameAsk, []byte(text[:min(len(text), maxPayload)])...))
	default:
		return errProtocol
	}
	return nil
}

// send sends a frame, in one piece among those of other goroutines. It waits for the client; how long, the package comment
// says. A client that is dropped is closed, and its receiving goroutine removes it.
func (p *peer) send(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return
	}
	if len(p.queue) > 0 {
		p.keep(frame)
		return
	}
	p.left = frame
	// Control tries without waiting, whatever the deadline is.
	if err := p.raw.Control(p.once); err != nil {
		p.drop()
		return
	}
	if len(p.left) > 0 && !p.failed {
		p.wait()
	}
	if p.failed {
		p.drop()
	} else if len(p.left) > 0 {
		p.keep(p.left)
	}
	p.left = nil
}

// wait waits until all is written that is left, or nobody is waited for any more.
func (p *peer) wait() {
	for len(p.left) > 0 && !p.failed && !p.hub.draining.Load() {
		p.progress = false
		if !p.first {
			p.arm()
		}
		err := p.raw.Write(p.write)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.failed = !p.progress && !p.hub.draining.Load()
		default:
			p.failed = true
		}
	}
}

// arm sets the deadline after which a client has taken nothing for too long.
func (p *peer) arm() {
	p.f.SetWriteDeadline(time.Now().Add(p.hub.cfg.Stall))
	if p.hub.draining.Load() {
		p.f.SetWriteDeadline(past)
	}
}

// tryWrite writes what the client takes. It returns false to wait.
func (p *peer) tryWrite(fd uintptr) bool {
	for len(p.left) > 0 {
		n, err := unix.Write(int(fd), p.left)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err != nil:
			p.failed = true
			return true
		default:
			p.left = p.left[n:]
			p.progress = true
		}
	}
	return true
}

// keep keeps what a client will get after the container's end.
func (p *peer) keep(b []byte) {
	if len(p.queue)+len(b) > maxQueue {
		p.drop()
		return
	}
	p.queue = append(p.queue, b...)
}

// drop ends a client. Closing wakes its receiving goroutine, which does the rest.
func (p *peer) drop() {
	p.gone = true
	p.queue = nil
	p.f.Close()
}

// finish sends a client the last frame, after all that was kept for it.
func (p *peer) finish(last []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return
	}
	p.left = append(p.queue, last...)
	p.queue = nil
	for len(p.left) > 0 && !p.failed {
		p.progress = false
		deadline := noTime
		if !p.first {
			deadline = time.Now().Add(p.hub.cfg.Stall)
		}
		p.f.SetWriteDeadline(deadline)
		if err := p.raw.Write(p.write); err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || !p.progress) {
			break
		}
	}
	p.drop()
}

func (p *peer) close() {
	p.f.Close() // first, so that nobody holds the lock waiting for it
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	p.queue = nil
}
