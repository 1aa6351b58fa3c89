package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/nslab/nslab/engine"
)

// proxySignals passes the signals that nslab gets on to a container, until the returned function is called. Those that are
// about nslab itself stay here: the end of a child, a pipe that nobody reads, and the one by which the Go runtime interrupts itself.
func proxySignals(e *engine.Engine, id string) (stop func()) {
	return proxyTo(func(s syscall.Signal) {
		e.Kill(context.Background(), id, s) // one that has ended needs none any more
	})
}

func proxyTo(send func(syscall.Signal)) (stop func()) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				switch s {
				case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG:
					continue
				}
				send(s.(syscall.Signal))
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
