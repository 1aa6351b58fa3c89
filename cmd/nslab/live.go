package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

// liveLines are the lines at the bottom of a terminal that change, while what is finished scrolls up. Whoever draws them holds a
// lock of his own.
type liveLines struct {
	out           io.Writer
	size          func() (width, height int, err error)
	width, height int
	drawn         int // lines at the bottom that are going to be drawn again
	stop, done    chan struct{}
}

func newLiveLines(f *os.File) *liveLines {
	l := &liveLines{out: f, size: func() (int, int, error) { return term.GetSize(int(f.Fd())) }}
	l.measure()
	return l
}

// measure looks how large the terminal is now.
func (l *liveLines) measure() {
	width, height, err := l.size()
	if err != nil || width <= 0 || height <= 0 { // some terminals do not know
		width, height = 80, 24
	}
	l.width, l.height = max(width, 20), max(height, 4)
}

// every calls draw ten times a second, until end is called.
func (l *liveLines) every(draw func()) {
	l.stop, l.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(l.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				draw()
			case <-l.stop:
				return
			}
		}
	}()
}

func (l *liveLines) end() {
	close(l.stop)
	<-l.done
}

// room is how many lines can change: what has left the screen cannot be erased.
func (l *liveLines) room() int { return l.height - 2 }

// draw puts lines in the place of those that were drawn before.
func (l *liveLines) draw(lines []string) {
	l.erase()
	lines = lines[:min(len(lines), l.room())]
	l.drawn = len(lines)
	l.write(lines)
}

// leave writes lines that stay.
func (l *liveLines) leave(lines []string) {
	l.erase()
	l.write(lines)
}

func (l *liveLines) write(lines []string) {
	if len(lines) > 0 {
		io.WriteString(l.out, strings.Join(lines, "\n")+"\n")
	}
}

// erase takes away what was drawn.
func (l *liveLines) erase() {
	if l.drawn > 0 {
		fmt.Fprintf(l.out, "\x1b[%dA\x1b[J", l.drawn)
	}
	l.drawn = 0
}

// fit puts a time at the right end of the line, and shortens the text so that there is one line.
func (l *liveLines) fit(text, right string) string {
	text = strings.ReplaceAll(text, "\t", "    ")
	room := l.width - 1 - len(right)
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
	return text + strings.Repeat(" ", max(1, l.width-1-uniseg.StringWidth(text)-len(right))) + right
}
