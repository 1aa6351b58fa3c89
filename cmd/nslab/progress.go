package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/image"
)

// progress shows how far layers are: on a terminal a line for each, with a bar, drawn again and again in the same place; in a pipe
// a line whenever a layer reaches another state.
type progress struct {
	out   *os.File
	words map[image.State]string // what the states are called; one that is missing is not told
	bars  bool

	mu    sync.Mutex
	rows  []*image.Progress
	drawn int // lines on the terminal
	next  time.Time
}

const redraw = 100 * time.Millisecond

func newProgress(out *os.File, words map[image.State]string) *progress {
	return &progress{out: out, words: words, bars: term.IsTerminal(int(out.Fd()))}
}

// tell takes news of a layer. Several goroutines may call it.
func (p *progress) tell(now image.Progress) {
	if p.words[now.State] == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	row := p.row(now.Layer)
	changed := row.State != now.State
	*row = now
	switch {
	case !p.bars && changed:
		fmt.Fprintf(p.out, "%s: %s\n", now.Layer, p.words[now.State])
	case p.bars && (changed || time.Now().After(p.next)):
		p.draw()
	}
}

func (p *progress) row(layer string) *image.Progress {
	for _, r := range p.rows {
		if r.Layer == layer {
			return r
		}
	}
	p.rows = append(p.rows, &image.Progress{Layer: layer})
	return p.rows[len(p.rows)-1]
}

// close draws the last state. What is printed after stands below.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bars && len(p.rows) > 0 {
		p.draw()
	}
}

// draw writes all lines in one go, over those of the last time: CSI A goes up, CSI K clears to the end of the line. Of more than
// the terminal is high, the last ones are shown: what has left the screen cannot be drawn over.
func (p *progress) draw() {
	p.next = time.Now().Add(redraw)
	width, height, err := term.GetSize(int(p.out.Fd()))
	if err != nil || width < 20 {
		width = 80
	}
	rows := p.rows[max(0, len(p.rows)-max(height-1, 1)):]
	var text strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", p.drawn)
	}
	for _, r := range rows {
		fmt.Fprintf(&text, "\r%s\x1b[K\n", p.line(r, width-1))
	}
	p.drawn = len(rows)
	p.out.WriteString(text.String())
}

// line is a layer's: "6d5fcfe5ff17: Loading layer  [====>     ]  1.2MB/2.5MB".
func (p *progress) line(r *image.Progress, width int) string {
	text := fmt.Sprintf("%s: %s", r.Layer, p.words[r.State])
	if r.Done == 0 && r.Total == 0 || r.State == image.Exists {
		return text
	}
	size := format.Size(r.Done)
	if r.Total > 0 {
		size += "/" + format.Size(r.Total)
	}
	room := min(width-len(text)-len(size)-6, 50)
	if r.Total > 0 && room > 4 {
		text += "  [" + bar(r.Done, r.Total, room) + "]"
	}
	if text += "  " + size; len(text) > width {
		text = text[:width]
	}
	return text
}

// bar is so many characters wide.
func bar(done, total int64, width int) string {
	n := int(float64(min(done, total)) / float64(max(total, 1)) * float64(width))
	if n >= width {
		return strings.Repeat("=", width)
	}
	return strings.Repeat("=", n) + ">" + strings.Repeat(" ", width-n-1)
}
