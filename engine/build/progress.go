package build

import (
	"fmt"
	"sync"

	"github.com/nslab/nslab/image"
)

// Progress is told what happens, by several stages at once.
type Progress interface {
	Begin(v *Vertex)
	Output(v *Vertex, text []byte)     // of a RUN, as it comes
	Layer(v *Vertex, p image.Progress) // of an image that is pulled
	Say(v *Vertex, text string)
	End(v *Vertex, o Outcome)
}

// Vertex is a piece of work that people see.
type Vertex struct {
	ID   int
	Name string // "[builder 2/4] RUN make"
}

// Outcome is how it ended.
type Outcome string

// The outcomes.
const (
	Done   Outcome = "DONE"
	Cached Outcome = "CACHED"
	Failed Outcome = "ERROR"

	Canceled Outcome = "CANCELED" // another stage has failed, or the user has had enough
)

// Quiet hears nothing.
type Quiet struct{}

func (Quiet) Begin(*Vertex)                 {}
func (Quiet) Output(*Vertex, []byte)        {}
func (Quiet) Layer(*Vertex, image.Progress) {}
func (Quiet) Say(*Vertex, string)           {}
func (Quiet) End(*Vertex, Outcome)          {}

// counter numbers what people see.
type counter struct {
	mu   sync.Mutex
	last int
	many bool // stages are named
}

func (c *counter) vertex(place, text string) *Vertex {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	if place != "" {
		text = "[" + place + "] " + text
	}
	return &Vertex{ID: c.last, Name: short(text)}
}

// count finds out whether stages need names to be told apart.
func (b *builder) count(target *stage) { b.counter.many = len(b.needed(target)) > 1 }

// vertex is the next step of a stage.
func (s *stage) vertex(text string) *Vertex {
	s.step++
	place := fmt.Sprintf("%d/%d", s.step, max(s.steps, s.step))
	if s.b.counter.many {
		name := s.Name
		if name == "" {
			name = fmt.Sprintf("stage-%d", s.index)
		}
		place = name + " " + place
	}
	return s.b.counter.vertex(place, text)
}
