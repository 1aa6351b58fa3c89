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

	"github.com/rivo/uniseg"
	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine/build"
	"github.com/nslab/nslab/image"
)

// buildProgress shows what a build does, on standard error: as lines, each with the number of the step that it belongs to, or
// on a terminal as a few lines at the bottom that change, while what is finished scrolls up.
type buildProgress struct {
	out    io.Writer
	quiet  bool
	live   bool
	width  int
	height int

	mu     sync.Mutex
	began  time.Time
	active []*buildStep
	drawn  int // lines at the bottom that are going to be drawn again
	stop   chan struct{}
	done   chan struct{}
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
		p.live = true
	case kind == "tty":
		return nil, &statusError{exitFailed, fmt.Errorf("--progress=tty: standard error is no terminal"), "leave it out, or use plain"}
	}
	if p.live {
		p.width, p.height, _ = term.GetSize(fd)
		p.width, p.height = max(p.width, 20), max(p.height, 4)
		p.stop, p.done = make(chan struct{}), make(chan struct{})
		go p.refresh()
	}
	return p, nil
}

func (p *buildProgress) refresh() {
	defer close(p.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		case <-p.stop:
			return
		}
	}
}

// close leaves what has been shown. After an error, what the step has said that failed is shown whole.
func (p *buildProgress) close(err error) {
	if p.live {
		close(p.stop)
		<-p.done
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
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
	if !p.quiet && !p.live {
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
	case p.quiet, p.live:
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
	if news && state.text != "Waiting" && !p.live && !p.quiet {
		fmt.Fprintf(p.out, "#%d %s: %s\n", v.ID, l.id, state.begun())
	}
}

// line shows how far a layer is, on a terminal.
func (l *buildLayer) line(width int) string {
	s := l.state
	if !s.moving || s.total <= 0 {
		return l.id + ": " + s.text
	}
	head, tail := l.id+": "+movingText(s.text)+" ", " "+format.Size(s.current)+"/"+format.Size(s.total)
	room := min(40, width-len(" => => ")-len(head)-len("1023.5MB/1023.5MB")-2)
	if room < 10 {
		return head + tail[1:]
	}
	full := int(min(s.current, s.total) * int64(room-2) / s.total)
	return head + "[" + strings.Repeat("=", full) + ">"[:min(1, room-2-full)] + strings.Repeat(" ", max(0, room-3-full)) + "]" + tail
}

func (p *buildProgress) Say(v *build.Vertex, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.step(v)
	if p.live || p.quiet {
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
	case p.live:
		p.erase()
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
		fmt.Fprintln(p.out, p.fit(" => CACHED "+printableLine(s.v.Name), ""))
	case build.Failed:
		fmt.Fprintln(p.out, p.fit(" => ERROR "+printableLine(s.v.Name), fmt.Sprintf("%.1fs", took)))
		p.out.Write(s.all.Bytes())
	default:
		fmt.Fprintln(p.out, p.fit(" => "+printableLine(s.v.Name), fmt.Sprintf("%.1fs", took)))
		if strings.HasPrefix(s.v.Name, "exporting") {
			for _, line := range s.recent {
				fmt.Fprintln(p.out, p.fit(" => => "+line, ""))
			}
		}
	}
}

// draw shows the steps that go on, as far as there is room: what has left the screen cannot be erased.
func (p *buildProgress) draw() {
	if !p.live {
		return
	}
	p.erase()
	var lines []string
	for _, s := range p.active {
		lines = append(lines, p.fit(" => "+printableLine(s.v.Name), fmt.Sprintf("%.1fs", time.Since(s.began).Seconds())))
		for _, l := range s.layers {
			if !l.state.final { // those that are there make room for those that come
				lines = append(lines, p.fit(" => => "+l.line(p.width), ""))
			}
		}
		for _, line := range s.recent {
			lines = append(lines, "\x1b[2m"+p.fit(" => => # "+line, "")+"\x1b[m")
		}
	}
	lines = lines[:min(len(lines), p.height-2)]
	p.drawn = len(lines)
	if len(lines) > 0 {
		io.WriteString(p.out, strings.Join(lines, "\n")+"\n")
	}
}

// erase takes away what was drawn.
func (p *buildProgress) erase() {
	if p.drawn > 0 {
		fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.drawn)
	}
	p.drawn = 0
}

// fit puts a time at the right end of the line, and shortens the text so that there is one line.
func (p *buildProgress) fit(text, right string) string {
	text = strings.ReplaceAll(text, "\t", "    ")
	room := p.width - 1 - len(right)
	if right != "" {
		room--
	}
	if uniseg.StringWidth(text) > room {
		var b strings.Builder
		width := 1
		for g := uniseg.NewGraphemes(text); g.Next() && width+g.Width() <= room; width += g.Width() {
			b.WriteString(g.Str())
		}
		text = b.String() + "…"
	}
	if right == "" {
		return text
	}
	return text + strings.Repeat(" ", max(1, p.width-1-uniseg.StringWidth(text)-len(right))) + right
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
