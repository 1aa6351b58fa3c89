package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/format"
)

// layerView shows what happens to the layers of an image: with a bar for each on a terminal, and else with a line for each
// thing that happens.
type layerView struct {
	w      io.Writer
	mu     sync.Mutex
	bars   *mpb.Progress // nil: no terminal
	layers map[int]*layerBar
}

// layerState is where a layer is.
type layerState struct {
	text           string
	moving         bool // bytes come or go
	final          bool
	current, total int64
}

type layerBar struct {
	id    string
	bar   *mpb.Bar
	mu    sync.Mutex
	state layerState
}

func newLayerView(w io.Writer) *layerView {
	v := &layerView{w: w, layers: map[int]*layerBar{}}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		v.bars = mpb.New(mpb.WithOutput(f))
	}
	return v
}

// set says where a layer is now. It may be called by several goroutines.
func (v *layerView) set(n int, id string, s layerState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.layers[n]
	if l == nil {
		l = &layerBar{id: id}
		v.layers[n] = l
		if v.bars != nil {
			l.addBar(v.bars)
		}
	}
	l.mu.Lock()
	news := l.state.text != s.text
	l.state = s
	l.mu.Unlock()
	switch {
	case l.bar != nil:
		l.bar.SetTotal(s.total, s.final)
		l.bar.SetCurrent(s.current)
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

// addBar puts a line on the terminal.
func (l *layerBar) addBar(p *mpb.Progress) {
	style := mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]").Build()
	get := func() layerState {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.state
	}
	fill := mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
		if !get().moving {
			return nil
		}
		return style.Fill(w, s)
	})
	// A total of nothing: the end of a bar is when we say so, and not when all bytes are there.
	l.bar, _ = p.Add(0, fill, mpb.BarWidth(40), // which only fails after Wait
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			s := get()
			if s.moving {
				return fmt.Sprintf("%s: %-13s", l.id, movingText(s.text))
			}
			return l.id + ": " + s.text
		})),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			if s := get(); s.moving {
				return format.Size(s.current) + "/" + format.Size(s.total)
			}
			return ""
		})),
	)
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
	if v.bars == nil {
		return
	}
	v.mu.Lock()
	for _, l := range v.layers {
		l.bar.Abort(false) // does nothing to one that is complete
	}
	v.mu.Unlock()
	v.bars.Wait()
}
