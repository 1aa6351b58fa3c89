package engine

import (
	"context"
	"errors"
	"io"

	"github.com/nslab/nslab/engine/logs"
)

// ErrNoLog is a container that was told to keep none.
var ErrNoLog = errors.New("the container keeps no log (--log-driver none)")

// Logs prints what a container has said. Following ends with the container, and does not begin where it does not run.
func (e *Engine) Logs(ctx context.Context, ref string, o logs.ReadOptions, out, errOut io.Writer) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if c.HostConfig.LogConfig.Type == logs.None {
		return &InputError{What: "container", Value: ref, Err: ErrNoLog}
	}
	o.Follow = o.Follow && c.State.Running
	if !o.Follow {
		return logs.Read(ctx, c.LogPath(), o, out, errOut)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	o.Done = done
	go func() {
		defer close(done)
		c.Wait(ctx) // until its monitor has closed the log; what came of it is not asked here
	}()
	return logs.Read(ctx, c.LogPath(), o, out, errOut)
}
