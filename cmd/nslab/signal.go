package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// signalError is the cause of a context that a signal has ended.
type signalError struct{ syscall.Signal }

func (e signalError) Error() string { return fmt.Sprintf("interrupted by %s", e.Signal) }

// interruptible returns a context that ends with the first SIGINT, SIGTERM or SIGHUP, so that what is going on can undo
// what it has done. From then on, and until stop, a write to a closed pipe is an error and no end, for the same reason.
func interruptible() (ctx context.Context, stop func()) {
	ctx, catch, stop := interruptibleLater()
	catch()
	return ctx, stop
}

// interruptibleLater is for who has nothing to undo yet: signals end nslab as any program until catch is called. To catch them is
// not for nothing, since Go makes threads for it.
func interruptibleLater() (ctx context.Context, catch, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals, pipe := make(chan os.Signal, 1), make(chan os.Signal, 1)
	catch = sync.OnceFunc(func() {
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		signal.Notify(pipe, syscall.SIGPIPE)
		go func() {
			select {
			case s := <-signals:
				cancel(signalError{s.(syscall.Signal)})
			case <-ctx.Done():
			}
		}()
	})
	return ctx, catch, func() {
		signal.Stop(signals)
		signal.Stop(pipe)
		cancel(nil)
	}
}

// interrupted gives an error that a signal or a closed pipe has caused the status that a shell would give it, and nothing
// to print: who interrupts a program knows why it has ended.
func interrupted(err error) error {
	var s signalError
	switch {
	case errors.As(err, &s):
		return &statusError{status: exitSignal + int(s.Signal)}
	case errors.Is(err, syscall.EPIPE):
		return &statusError{status: exitSignal + int(syscall.SIGPIPE)}
	}
	return err
}
