package stream

import (
	"context"
	"errors"
	"os"
	"time"
)

// Local is a program whose pipes or terminal the caller holds. Pump takes over the files.
type Local struct {
	// Either a terminal's master, or the near ends of pipes; nil where there is none.
	Terminal              *os.File
	Stdin, Stdout, Stderr *os.File

	// Done is closed when the program has ended.
	Done <-chan struct{}
	// Grace is for how long its outputs are read after that, where others still have them open. 0: DefaultGrace
	Grace time.Duration
}

// Pump connects the caller to a program whose pipes or terminal the caller holds, until the program ends and what it printed
// is written, the caller detaches or the context ends.
//
// The end of the caller's stdin closes the program's, if that is a pipe. A program can leave others behind that have its
// outputs open, such as `sh -c 'sleep 100 &'`: what they print is waited for until the grace is over, as in Docker. What
// the program printed itself is written, however slowly it is taken.
func Pump(ctx context.Context, l Local, o Options) (out Outcome, err error) {
	p, err := newPump(l, o)
	if err != nil {
		return Outcome{}, err
	}
	defer p.close()
	f := &front{opts: o, terminal: l.Terminal != nil, to: p}
	if p.stdin == nil {
		f.opts.Stdin = nil
	} else if o.Stdin == nil {
		p.closeInput()
	}
	if p.terminal != nil {
		f.findWindow()
		for _, s := range f.firstSizes() {
			p.resize(s)
		}
	}
	defer f.rescue()
	defer func() { err = errors.Join(err, f.end()) }()
	if err := f.start(); err != nil {
		return Outcome{}, err
	}
	over := make(chan error, 1)
	go func() {
		defer f.rescue()
		over <- p.copy(f)
	}()
	done := l.Done
	for {
		select {
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		case s := <-f.signals:
			return Outcome{}, &SignalError{Signal: s}
		case <-f.typed:
			return Outcome{Detached: true}, nil
		case <-done:
			done = nil
			for _, s := range p.sources {
				s.end(p.grace)
			}
		case err := <-over:
			if err != nil || done == nil {
				return Outcome{}, err
			}
			// It has closed its outputs, and goes on.
			over = nil
		}
		if done == nil && over == nil {
			return Outcome{}, nil
		}
	}
}

// pump is the program's side.
type pump struct {
	grace    time.Duration
	terminal *os.File
	stdin    *os.File
	sources  []*source
	names    []string
	opts     Options
}

func newPump(l Local, o Options) (*pump, error) {
	p := &pump{grace: l.Grace, opts: o}
	if p.grace == 0 {
		p.grace = DefaultGrace
	}
	for _, f := range []**os.File{&l.Terminal, &l.Stdin, &l.Stdout, &l.Stderr} {
		file, err := pollable(*f)
		if err != nil {
			return nil, err
		}
		*f = file
	}
	p.terminal, p.stdin = l.Terminal, l.Stdin
	outputs, names := []*os.File{l.Stdout, l.Stderr}, []string{"stdout", "stderr"}
	if l.Terminal != nil {
		p.stdin = l.Terminal
		outputs, names = []*os.File{l.Terminal}, []string{"stdout"}
	}
	for i, f := range outputs {
		if f == nil {
			continue
		}
		s, err := newSource(f, l.Terminal != nil)
		if err != nil {
			return nil, err
		}
		p.sources, p.names = append(p.sources, s), append(p.names, names[i])
	}
	return p, nil
}

// copy writes what the program prints, and returns at the end of all outputs or at the first error.
func (p *pump) copy(f *front) error {
	errs := make(chan error, len(p.sources))
	for i, s := range p.sources {
		w := p.opts.Stdout
		if p.names[i] == "stderr" {
			w = p.opts.Stderr
		}
		go func() {
			defer f.rescue()
			buf := make([]byte, maxPayload)
			for {
				n, err := s.next(buf)
				if err != nil {
					errs <- nil
					return
				}
				if w == nil {
					continue
				}
				if err := writeAll(w, buf[:n]); err != nil {
					errs <- &OutputError{Stream: p.names[i], Err: err}
					return
				}
			}
		}()
	}
	for range p.sources {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func (p *pump) input(b []byte) error {
	_, err := p.stdin.Write(b)
	return err
}

func (p *pump) closeInput() {
	if p.terminal == nil {
		p.stdin.Close()
	}
}

func (p *pump) resize(s Size) {
	// It can only fail where the terminal is gone, and nobody would want to know.
	_ = SetSize(p.terminal, s)
}

func (p *pump) close() {
	for _, s := range p.sources {
		s.f.Close()
	}
	if p.stdin != nil {
		p.stdin.Close()
	}
}
