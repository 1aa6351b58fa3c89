package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/nslab/nslab/engine/build"
	"github.com/nslab/nslab/image"
)

// buildProgress shows what a build does, on standard error: as lines, each with the number of the step that it belongs to, or
// on a terminal as a few lines at the bottom that change, while what is finished scrolls up.
type buildProgress struct {
	out   io.Writer
	quiet bool
	live  *liveLines // nil: no terminal

	mu     sync.Mutex
	began  time.Time
	active []*buildStep
}

// buildStep is a step that has begun.
type buildStep struct {
	v      *build.Vertex
	began  time.Time
	line   []byte   // that has not ended yet
	recent []string // the last lines of output
	all    bytes.Buffer
	layers []*buildLayer // of an image that comes, in the order in which they are heard of
}

type buildLayer struct {
	n     int
	id    string
	state layerState
}

const (
	recentLines = 5        // that are shown of a step
	keptOutput  = 64 << 10 // of a step on a terminal, for the case that it fails
)

func newBuildProgress(kind string, quiet bool) (*buildProgress, error) {
	p := &buildProgress{out: os.Stderr, quiet: quiet || kind == "quiet", began: time.Now()}
	fd := int(os.Stderr.Fd())
	switch {
	case p.quiet, kind == "plain":
	case term.IsTerminal(fd):
		p.live = newLiveLines(os.Stderr)
	case kind == "tty":
		return nil, &statusError{exitFailed, fmt.Errorf("--progress=tty: standard error is no terminal"), "leave it out, or use plain"}
	}
	if p.live != nil {
		p.live.every(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.draw()
		})
	}
	return p, nil
}

// close leaves what has been shown. After an error, what the step has said that failed is shown whole.
func (p *buildProgress) close(err error) {
	if p.live == nil {
		return
	}
	p.live.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live.erase()
}

func (p *buildProgress) step(v *build.Vertex) *buildStep {
	for _, s := range p.active {
		if s.v == v {
			return s
		}
	}
	s := &buildStep{v: v, began: time.Now()}
	p.active = append(p.active, s)
	return s
}

// Begin and the others are what a build calls.
func (p *buildProgress) Begin(v *build.Vertex) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step(v)
	if !p.quiet && p.live == nil {
		fmt.Fprintf(p.out, "#%d %s\n", v.ID, printableLine(v.Name))
	}
}

func (p *buildProgress) Output(v *build.Vertex, text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.step(v)
	s.line = append(s.line, text...)
	for {
		line, rest, more := bytes.Cut(s.line, []byte("\n"))
		if !more {
			break
		}
		s.line = rest
		p.say(s, string(line))
	}
	if len(s.line) > 8<<10 { // nobody reads a line of this length
		p.say(s, string(s.line))
		s.line = nil
	}
}

// say shows a line of output.
func (p *buildProgress) say(s *buildStep, line string) {
	// Of a line that a program has drawn over, what is seen at its end.
	line = strings.TrimRight(line, "\r")
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	line = printableLine(line)
	switch {
	case p.quiet, p.live != nil:
		if s.all.Len() < keptOutput {
			fmt.Fprintf(&s.all, "#%d %s\n", s.v.ID, line)
		}
		s.recent = append(s.recent, line)
		s.recent = s.recent[max(0, len(s.recent)-recentLines):]
	default:
		fmt.Fprintf(p.out, "#%d %.3f %s\n", s.v.ID, time.Since(s.began).Seconds(), line)
	}
}

func (p *buildProgress) Layer(v *build.Vertex, i image.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.step(v)
	at := slices.IndexFunc(s.layers, func(l *buildLayer) bool { return l.n == i.Layer })
	if at < 0 {
		at = len(s.layers)
		s.layers = append(s.layers, &buildLayer{n: i.Layer, id: image.ShortID(string(i.Digest))})
	}
	l, state := s.layers[at], pullState(i)
	news := l.state.text != state.text
	l.state = state
	if news && state.text != "Waiting" && p.live == nil && !p.quiet {
		fmt.Fprintf(p.out, "#%d %s: %s\n", v.ID, l.id, state.begun())
	}
}

func (p *buildProgress) Say(v *build.Vertex, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.step(v)
	if p.live != nil || p.quiet {
		s.recent = append(s.recent, text)
		return
	}
	fmt.Fprintf(p.out, "#%d %s\n", v.ID, printableLine(text))
}

func (p *buildProgress) End(v *build.Vertex, o build.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.step(v)
	if len(s.line) > 0 {
		p.say(s, string(s.line))
	}
	p.active = slices.DeleteFunc(p.active, func(x *buildStep) bool { return x == s })
	took := time.Since(s.began).Seconds()
	switch {
	case p.live != nil:
		p.live.erase()
		p.finished(s, o, took)
		p.draw()
	case p.quiet:
		if o == build.Failed {
			p.out.Write(s.all.Bytes())
		}
	case o == build.Done:
		fmt.Fprintf(p.out, "#%d DONE %.1fs\n\n", v.ID, took)
	default:
		fmt.Fprintf(p.out, "#%d %s\n\n", v.ID, o)
	}
}

// finished writes a step that has ended above those that go on.
func (p *buildProgress) finished(s *buildStep, o build.Outcome, took float64) {
	switch o {
	case build.Cached:
		fmt.Fprintln(p.out, p.live.fit(" => CACHED "+printableLine(s.v.Name), ""))
	case build.Failed:
		fmt.Fprintln(p.out, p.live.fit(" => ERROR "+printableLine(s.v.Name), fmt.Sprintf("%.1fs", took)))
		p.out.Write(s.all.Bytes())
	default:
		fmt.Fprintln(p.out, p.live.fit(" => "+printableLine(s.v.Name), fmt.Sprintf("%.1fs", took)))
		if strings.HasPrefix(s.v.Name, "exporting") {
			for _, line := range s.recent {
				fmt.Fprintln(p.out, p.live.fit(" => => "+line, ""))
			}
		}
	}
}

// draw shows the steps that go on, as far as there is room.
func (p *buildProgress) draw() {
	if p.live == nil {
		return
	}
	p.live.measure()
	var lines []string
	for _, s := range p.active {
		lines = append(lines, p.live.fit(" => "+printableLine(s.v.Name), fmt.Sprintf("%.1fs", time.Since(s.began).Seconds())))
		for _, l := range s.layers {
			if !l.state.final { // those that are there make room for those that come
				lines = append(lines, p.live.fit(" => => "+layerLine(l.id, l.state, p.live.width-len(" => => ")), ""))
			}
		}
		for _, line := range s.recent {
			lines = append(lines, "\x1b[2m"+p.live.fit(" => => # "+line, "")+"\x1b[m")
		}
	}
	p.live.draw(lines)
}

// printableLine keeps control characters, which a program may use to draw, from the terminal.
func printableLine(text string) string {
	var b strings.Builder
	for rest := text; rest != ""; {
		if strings.HasPrefix(rest, "\x1b[") { // a colour, or a movement
			end := strings.IndexFunc(rest[2:], func(c rune) bool { return c >= '@' && c <= '~' })
			if end < 0 {
				break
			}
			rest = rest[2+end+1:]
			continue
		}
		for _, c := range rest {
			switch {
			case c == '\t':
				b.WriteRune(c)
			case unicode.IsControl(c) || c == unicode.ReplacementChar:
				b.WriteRune(unicode.ReplacementChar)
			default:
				b.WriteRune(c)
			}
			rest = rest[len(string(c)):]
			break
		}
	}
	return b.String()
}
