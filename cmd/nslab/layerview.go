package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/format"
)

// layerView shows what happens to the layers of an image: with a line for each on a terminal, which changes, and else with a line
// for each thing that happens.
type layerView struct {
	w      io.Writer
	live   *liveLines // nil: no terminal
	mu     sync.Mutex
	layers []*viewedLayer // in the order in which they are heard of, but for those that have scrolled up
	known  map[int]*viewedLayer
}

// layerState is where a layer is.
type layerState struct {
	text           string
	moving         bool // bytes come or go
	final          bool
	current, total int64
}

type viewedLayer struct {
	id    string
	state layerState
}

func newLayerView(w io.Writer) *layerView {
	v := &layerView{w: w, known: map[int]*viewedLayer{}}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		v.live = newLiveLines(f)
		v.live.every(v.draw)
	}
	return v
}

// set says where a layer is now. It may be called by several goroutines.
func (v *layerView) set(n int, id string, s layerState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.known[n]
	if l == nil {
		l = &viewedLayer{id: id}
		v.known[n] = l
		v.layers = append(v.layers, l)
	}
	news := l.state.text != s.text
	l.state = s
	switch {
	case v.live != nil: // the next time that it is drawn
	case news && s.text != "Waiting": // which is of interest only as long as it lasts
		fmt.Fprintf(v.w, "%s: %s\n", id, s.begun())
	}
}

// begun is what a line says when a layer has come to this state.
func (s layerState) begun() string {
	if s.moving && s.current > 0 {
		return fmt.Sprintf("Resuming at %s of %s", format.Size(s.current), format.Size(s.total))
	}
	return s.text
}

// draw shows where the layers are. If there are more of them than lines, those that are done scroll up.
func (v *layerView) draw() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.live.measure()
	if len(v.layers) > v.live.room() {
		var done []*viewedLayer
		v.layers = slices.DeleteFunc(v.layers, func(l *viewedLayer) bool {
			if l.state.final {
				done = append(done, l)
			}
			return l.state.final
		})
		v.live.leave(v.lines(done))
	}
	v.live.draw(v.lines(v.layers))
}

func (v *layerView) lines(layers []*viewedLayer) (lines []string) {
	for _, l := range layers {
		lines = append(lines, v.live.fit(layerLine(l.id, l.state, v.live.width-1), ""))
	}
	return lines
}

// layerLine says where a layer is, with a bar if there is room.
func layerLine(id string, s layerState, width int) string {
	if !s.moving || s.total <= 0 {
		return id + ": " + s.text
	}
	head, tail := id+": "+movingText(s.text)+" ", " "+format.Size(s.current)+"/"+format.Size(s.total)
	room := min(40, width-len(head)-len("1023.5MB/1023.5MB")-2)
	if room < 10 {
		return head + tail[1:]
	}
	full := int(min(s.current, s.total) * int64(room-2) / s.total)
	return head + "[" + strings.Repeat("=", full) + ">"[:min(1, room-2-full)] + strings.Repeat(" ", max(0, room-3-full)) + "]" + tail
}

// movingText is what a terminal says while bytes move.
func movingText(text string) string {
	if text == "Pulling fs layer" {
		return "Downloading"
	}
	return text
}

// close leaves what is on the terminal as it is.
func (v *layerView) close() {
	if v.live == nil {
		return
	}
	v.live.end()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.live.measure()
	v.live.leave(v.lines(v.layers))
}
