package engine

import (
	"context"
	"errors"
	"os"

	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/wire"
)

// The end of an --rm container whose client is there. When the program has ended, the monitor still has to look for processes that
// are left, to remove the control group, to finish the log and to write down how it was. To remove folders takes as long, and so
// the client begins with that as soon as the monitor tells it that the program has ended, and not when all is over.
//
// Until that is so the record stays, and with it the container: should both be killed now, the next command finds the
// record, ends what is left of the run, and removes what is left of the folders.

// Attachment is the connection of a client that was there when the container started. While it is open, an --rm container is
// the client's to remove; when it is closed before the container's end, the monitor does that.
type Attachment struct {
	Conn *os.File // for package stream, which takes it over

	reports wire.Conn
	ending  *ending // nil where nothing is removed before all is over
}

// Close tells the monitor that this client does nothing more. What it has begun to remove is removed first.
func (a *Attachment) Close() error {
	if a == nil {
		return nil
	}
	err := a.reports.Close()
	if a.ending != nil {
		<-a.ending.over
	}
	return err
}

// ending is the removal of a container, as far as it has come.
type ending struct {
	c    Container // with a lock of its own, once it has begun
	over chan struct{}
	err  error // set before over is closed
}

func (c *Container) attachment(m *launched) *Attachment {
	a := &Attachment{Conn: m.attached, reports: m.reports}
	// What others have to do with, too, goes when the monitor has let go of it, and not before.
	if c.HostConfig.AutoRemove && len(c.Networks) == 0 && len(c.Mounts) == 0 {
		c.ending = &ending{c: Container{engine: c.engine, Record: c.Record}, over: make(chan struct{})}
		a.ending = c.ending
		go c.ending.await(a.reports)
	}
	return a
}

// await begins when the monitor says that the program has ended, if it ever does.
func (e *ending) await(reports wire.Conn) {
	defer close(e.over)
	for {
		var r monitor.Report
		if reports.Receive(&r) != nil {
			return
		}
		if r.Ended {
			e.err = e.c.clear(context.Background())
			return
		}
	}
}

// clear removes most of an --rm container that has ended, and keeps the lock of what is left.
func (c *Container) clear(ctx context.Context) error {
	if !c.engine.exists(c.ID) {
		return nil
	}
	if err := c.lockNew(ctx); err != nil {
		return err
	}
	// The file system waits for its disk now and then, so two do it.
	half := make(chan error, 1)
	go func() { half <- removeAll(c.path(initLayer)) }()
	err := c.giveBack(true)
	for _, d := range []string{rootFolder, workFolder, upperLayer} {
		err = errors.Join(err, removeAll(c.path(d)))
	}
	return errors.Join(err, <-half)
}

// RemoveEnded is [Engine.Remove] for an --rm container whose end the caller has just heard of from its monitor. Somebody else
// may have removed it by now.
func (c *Container) RemoveEnded(ctx context.Context) (err error) {
	if e := c.ending; e != nil {
		<-e.over // the monitor has said that it ended before it said how
		c.lock, e.c.lock = e.c.lock, nil
		err = e.err
	}
	defer c.Close()
	if c.lock == nil {
		if !c.engine.exists(c.ID) {
			return err
		}
		if err := c.lockNew(ctx); err != nil {
			return err
		}
	}
	return errors.Join(err, c.remove(ctx, true))
}
