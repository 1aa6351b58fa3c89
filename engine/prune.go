package engine

import (
	"context"
	"errors"
)

// Pruned is what [Engine.Prune] has removed.
type Pruned struct {
	IDs   []string
	Bytes int64 // that they had written
}

// Prune removes all containers that do not run and that the caller does not want to keep. It goes on after an error. As in
// Docker, volumes stay, also those without a name.
func (e *Engine) Prune(ctx context.Context, keep func(*Container) bool) (p Pruned, err error) {
	errs := []error{e.reapAll(ctx)}
	_, err = e.reapRuns(ctx)
	list, listErr := e.List(ctx)
	_, netErr := e.ReapNetworks(ctx, false)
	errs = append(errs, err, listErr, netErr)
	for _, c := range list {
		if c.State.Running || keep(c) {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		n, err := e.pruneOne(ctx, c.ID)
		if err != nil {
			errs = append(errs, notFoundIsNil(err)) // somebody else was faster
		} else if n >= 0 {
			p.IDs, p.Bytes = append(p.IDs, c.ID), p.Bytes+n
		}
	}
	return p, errors.Join(errs...)
}

// pruneOne removes a container, and returns how much it had written: -1 if it was started in the meantime.
func (e *Engine) pruneOne(ctx context.Context, id string) (size int64, err error) {
	c, err := e.Lock(ctx, id)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	if c.State.Running || c.monitored() {
		return -1, nil
	}
	if size, err = treeSize(c.path(upperLayer)); err != nil {
		return -1, err
	}
	return size, c.remove(ctx, false)
}
