package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/nslab/nslab/engine"
)

// proxySignals passes the signals that nslab gets on to a container, for as long as nslab lives.
func proxySignals(e *engine.Engine, id string) {
	proxyTo(func(s syscall.Signal) {
		e.Kill(context.Background(), id, s) // one that has ended needs none any more
	})
}

// usual are the signals that somebody may send a program that has just started: from a keyboard, a shell, a supervisor.
var usual = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGTSTP,
	syscall.SIGWINCH,
}

// ours are the signals that are about nslab itself: the end of a child, a pipe that nobody reads, and the one by which the Go
// runtime interrupts itself.
var ours = []os.Signal{syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG}

// proxyTo hands signals to send. To catch one costs Go a change of thread, there and back; with all 64 of them that would be a
// third of the time that nslab spends for a short container. So the rarer ones follow when it turns out not to be one.
func proxyTo(send func(syscall.Signal)) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, usual...)
	go func() {
		all := time.After(100 * time.Millisecond)
		for {
			select {
			case s := <-signals:
				if !slices.Contains(ours, s) {
					send(s.(syscall.Signal))
				}
			case <-all:
				signal.Notify(signals)
			}
		}
	}()
}
