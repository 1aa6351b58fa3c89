package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/engine/pages"
)

// DefaultStall is for how long a client that is not the first may take nothing at all before it is dropped.
const DefaultStall = 10 * time.Second

// Config says what a hub holds. It takes over the files.
type Config struct {
	// Either a terminal's master, or the near ends of pipes; nil where there is none.
	Terminal              *os.File
	Stdin, Stdout, Stderr *os.File

	// OpenStdin is for a terminal: clients may type. Pipes tell by Stdin.
	OpenStdin bool
	// StdinOnce closes the pipe to the container's stdin when the client ends its own that had it first. Without, it stays
	// open, for the next client. A terminal stays open in any case.
	StdinOnce bool

	Log *logs.Writer // nil: no log. The hub does not close it.

	// Ask is called for what a client of [Ask] wants; nil: there is nothing that could be had.
	Ask func(word string) error

	Stall time.Duration // 0: DefaultStall
	Grace time.Duration // 0: DefaultGrace

	// Quiet is called when nothing has happened for a second: after Start, after output, after a client has left. It may be
	// called by several goroutines. It is for handing back memory: see pages.Settle.
	Quiet func()
}

// Hub is the monitor's end. Its life is NewHub, Add and Listen, Start, then Drain and Close when the container is gone.
//
// While nothing is read or printed it takes a few kilobytes (BenchmarkIdle).
type Hub struct {
	cfg     Config
	stdin   *stdin
	outputs []*output

	draining atomic.Bool // the container is gone: nobody is waited for

	mu       sync.Mutex
	peers    []*peer // replaced, never changed: see clients
	listener *os.File
	path     string
	owner    *peer // whose stdin is the container's, with StdinOnce
	spare    []*pages.Buffer

	outs  sync.WaitGroup // the outputs' goroutines
	end   sync.Once
	quiet *time.Timer
}

// NewHub prepares a hub. It reads nothing yet.
func NewHub(cfg Config) (*Hub, error) {
	if cfg.Stall == 0 {
		cfg.Stall = DefaultStall
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	for _, f := range []**os.File{&cfg.Terminal, &cfg.Stdin, &cfg.Stdout, &cfg.Stderr} {
		p, err := pollable(*f)
		if err != nil {
			return nil, err
		}
		*f = p
	}
	if cfg.Quiet == nil {
		cfg.Quiet = func() {}
	}
	h := &Hub{cfg: cfg, stdin: &stdin{f: cfg.Stdin}}
	h.quiet = time.AfterFunc(time.Hour, cfg.Quiet)
	h.quiet.Stop()
	if cfg.Terminal != nil {
		if cfg.OpenStdin {
			h.stdin.f = cfg.Terminal
		}
		return h, h.output(cfg.Terminal, frameStdout, "stdout")
	}
	return h, errors.Join(h.output(cfg.Stdout, frameStdout, "stdout"), h.output(cfg.Stderr, frameStderr, "stderr"))
}

// output adds one of the container's outputs.
func (h *Hub) output(f *os.File, kind byte, name string) error {
	if f == nil {
		return nil
	}
	src, err := newSource(f, h.cfg.Terminal != nil)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", name, err)
	}
	o := &output{hub: h, src: src, kind: kind}
	if h.cfg.Log != nil {
		o.log = h.cfg.Log.Stream(name)
	}
	src.quiet = func() {
		o.mem.Release()
		if h.cfg.Log != nil {
			h.cfg.Log.Idle()
		}
		h.cfg.Quiet()
	}
	h.outputs = append(h.outputs, o)
	return nil
}

// Start begins to read what the container prints. Clients added before will get all of it.
func (h *Hub) Start() {
	for _, o := range h.outputs {
		h.outs.Go(o.run)
	}
	h.quiet.Reset(idle)
}

// output is one of the container's outputs, read by one goroutine.
type output struct {
	hub  *Hub
	src  *source
	kind byte
	log  io.WriteCloser // nil: none
	mem  pages.Buffer
}

func (o *output) run() {
	for {
		// The header goes in front of what is read, so that a frame is one write.
		buf := o.mem.Get(headerSize + maxPayload)
		n, err := o.src.next(buf[headerSize:])
		if err != nil {
			break
		}
		putHeader(buf, o.kind, n)
		// The log first: it waits for nobody.
		if o.log != nil {
			o.log.Write(buf[headerSize : headerSize+n])
		}
		for _, p := range o.hub.clients() {
			if p.wants[o.kind].Load() {
				p.send(buf[:headerSize+n])
			}
		}
	}
	if o.log != nil {
		o.log.Close()
	}
	o.mem.Release()
}

// clients returns those that are attached now.
func (h *Hub) clients() []*peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peers
}

// Drain tells that the container is gone. It returns when what was printed is in the log, and has been sent to the clients,
// or kept for those that do not take it yet. Processes that outlived the container and have its outputs open are listened to
// for the grace.
func (h *Hub) Drain() {
	if !h.draining.Swap(true) {
		for _, o := range h.outputs {
			o.src.end(h.cfg.Grace)
		}
		for _, p := range h.clients() {
			p.f.SetWriteDeadline(past) // whoever waits for this client goes on
		}
	}
	h.outs.Wait()
}

// Close tells the clients the exit status, waits until they have taken everything, and ends the hub. It drains first. The
// client that was there from the start is waited for as long as it lives, others while they read at all.
func (h *Hub) Close(status int) {
	b := frame(frameExit, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[headerSize:], uint32(status))
	h.finish(b)
}

// Fail is Close for a container that has no exit status, such as one that could not be started: clients get an error with
// this text.
func (h *Hub) Fail(text string) {
	h.finish(frame(frameError, []byte(text[:min(len(text), maxPayload)])...))
}

func (h *Hub) finish(last []byte) {
	h.Drain()
	h.end.Do(func() {
		h.mu.Lock()
		if h.listener != nil {
			// Whoever comes now finds no socket, and looks at the container's state.
			unix.Unlink(h.path)
			h.listener.Close()
		}
		peers := h.peers
		h.mu.Unlock()
		h.stdin.close(h.cfg.Terminal == nil)
		h.quiet.Stop()
		var wg sync.WaitGroup
		for _, p := range peers {
			wg.Go(func() { p.finish(last) })
		}
		wg.Wait()
		for _, o := range h.outputs {
			o.src.f.Close()
		}
	})
}

// resize sets the size of the container's terminal. The kernel tells the programs in it.
func (h *Hub) resize(s Size) {
	if h.cfg.Terminal != nil {
		// It can only fail where the terminal is gone, and nobody would want to know.
		_ = SetSize(h.cfg.Terminal, s)
	}
}

// stdin is the container's, and written by one client at a time.
type stdin struct {
	mu     sync.Mutex
	f      *os.File // nil: there is none
	closed atomic.Bool
}

// write passes on what a client typed. It waits while the container does not read. When the container has closed its stdin,
// nobody is told: programs such as head do that every day.
func (s *stdin) write(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f != nil && !s.closed.Load() {
		s.f.Write(p)
	}
}

func (s *stdin) close(file bool) {
	if s.f == nil || s.closed.Swap(true) || !file {
		return
	}
	s.f.Close() // also wakes a writer
}

// remove forgets a client.
func (h *Hub) remove(p *peer, detached bool) {
	h.mu.Lock()
	h.peers = slices.DeleteFunc(slices.Clone(h.peers), func(q *peer) bool { return p == q })
	h.mu.Unlock()
	h.endStdin(p, detached)
	p.close()
	h.quiet.Reset(idle)
}

// wantStdin notes that a client has stdin. With StdinOnce the first one's end is the container's, so that somebody who only
// looks in later with an empty stdin does not end it.
func (h *Hub) wantStdin(p *peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.stdin = true
	if h.owner == nil {
		h.owner = p
	}
}

// endStdin handles that a client types nothing more. If it detached, the next one has its place.
func (h *Hub) endStdin(p *peer, detached bool) {
	h.mu.Lock()
	owned := h.owner == p
	if owned {
		h.owner = nil
	}
	p.stdin = false
	h.mu.Unlock()
	if owned && !detached && h.cfg.StdinOnce && h.cfg.Terminal == nil {
		h.stdin.close(true)
	}
}

// buffer lends memory for what a client sends.
func (h *Hub) buffer() *pages.Buffer {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.spare)
	if n == 0 {
		return new(pages.Buffer)
	}
	b := h.spare[n-1]
	h.spare = h.spare[:n-1]
	return b
}

func (h *Hub) giveBack(b *pages.Buffer) {
	b.Release()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spare = append(h.spare, b)
}
