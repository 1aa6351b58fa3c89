package engine

import (
	"context"
	"errors"
)

// Restart stops a container, if it runs, and starts it again. What the timeout and the signal mean is said at [Engine.Stop].
func (e *Engine) Restart(ctx context.Context, ref string, timeout *int, signal string, o StartOptions) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if c.HostConfig.AutoRemove && c.State.Running {
		return &InputError{What: "container", Value: ref, Err: errors.New("it is removed when it stops (--rm)")}
	}
	if err := e.Stop(ctx, c.ID, timeout, signal); err != nil {
		return err
	}
	if c, err = e.Lock(ctx, c.ID); err != nil {
		return err
	}
	if c.State.Running { // somebody was faster
		return c.Close()
	}
	_, err = c.Start(ctx, o)
	return errors.Join(err, c.Close())
}
