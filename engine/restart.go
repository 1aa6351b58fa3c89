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
	err = e.Stop(ctx, c.ID, timeout, signal) // by its id: the name may be another's by then
	if err == nil {
		err = e.startAgain(ctx, c.ID, o)
	}
	var missing *NotFoundError
	if errors.As(err, &missing) && missing.Ref == c.ID {
		return &NotFoundError{Ref: ref}
	}
	return err
}

func (e *Engine) startAgain(ctx context.Context, id string, o StartOptions) error {
	c, err := e.Lock(ctx, id)
	if err != nil {
		return err
	}
	if !c.State.Running { // or somebody was faster
		_, err = c.Start(ctx, o)
	}
	return errors.Join(err, c.Close())
}
