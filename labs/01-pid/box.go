package pid

import (
	"context"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/actor"
)

// Box is what the walkthroughs of this lab and the later ones look at: an [actor.Actor] that was started by [Start].
type Box struct {
	*actor.Actor
	*Process
}

// Pid is the process's number outside.
func (b *Box) Pid() int { return b.Process.Pid }

// NewBox starts an actor in the namespaces of cfg, and ends it with the step. The clone is recorded in ctx: pass
// t.Context() where the clone is the point of the step, t.Untraced() where it is not.
func NewBox(ctx context.Context, t *course.T, cfg Config) (*Box, error) {
	cmd := Command(cfg, actor.Entry)
	a, err := actor.Prepare(cmd)
	if err != nil {
		return nil, err
	}
	p, err := Start(ctx, cfg, cmd)
	if err != nil {
		return nil, err
	}
	t.Cleanup(p.Kill)
	if err := a.Started(); err != nil {
		return nil, err
	}
	b := &Box{Actor: a, Process: p}
	t.Enter(a)
	// The clone returns before the child has come as far as its own code: wait for its first answer.
	_, err = a.Call(t.Untraced(), "hello")
	return b, err
}
