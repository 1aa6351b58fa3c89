// Package trace lets a stage tell which system calls it makes, as it makes them.
//
// A stage never prints. Where it calls the kernel it wraps the call in [Call], which times it and hands a record to
// whoever listens through the context: the walkthrough engine shows it as a "Do" line, `--explain` as a row. Nobody
// listening costs one context lookup, and the text is never built. The idea is net/http/httptrace's.
//
// The text must be built from the very variables that the call was given, next to it, so that it cannot tell another
// story than the kernel heard.
package trace

import (
	"context"
	"fmt"
	"path"
	"runtime"
	"strings"
	"time"
)

// Record is one call that was made.
type Record struct {
	Text string        `json:"text"`          // the call with its arguments, as strace would show it
	At   string        `json:"at"`            // where it stands in the source: "labs/02-mount/mount.go:61"
	Err  string        `json:"err,omitempty"` // what the kernel answered, empty when it agreed
	Took time.Duration `json:"took"`          // wall time in the call, in nanoseconds
}

// String renders the call and, when it was refused, the kernel's answer.
func (r Record) String() string {
	if r.Err == "" {
		return r.Text
	}
	return r.Text + " → " + r.Err
}

type key struct{}

// With returns a context under which every [Call] is handed to listen, in the order the calls return.
// listen may be called from several goroutines.
func With(ctx context.Context, listen func(Record)) context.Context {
	return context.WithValue(ctx, key{}, listen)
}

// Off returns a context under which calls are not recorded; cancellation still reaches them.
func Off(ctx context.Context) context.Context {
	return context.WithValue(ctx, key{}, (func(Record))(nil))
}

// On tells whether somebody listens. It is for those who would have to carry records from afar.
func On(ctx context.Context) bool {
	listen, _ := ctx.Value(key{}).(func(Record))
	return listen != nil
}

// Call runs f, which makes one system call, and records it. text is evaluated after f, and only if somebody listens, so
// it may mention results. skip says whose line is recorded: 0 the caller of Call, 1 that one's caller, and so on; a
// primitive that only wraps a system call passes 1, so that the line shown is the one that chose the arguments.
func Call(ctx context.Context, skip int, text func() string, f func() error) error {
	listen, _ := ctx.Value(key{}).(func(Record))
	if listen == nil {
		return f()
	}
	start := time.Now()
	err := f()
	r := Record{Text: text(), At: at(skip + 1), Took: time.Since(start)}
	if err != nil {
		r.Err = err.Error()
	}
	listen(r)
	return err
}

// Replay hands on a record that was made elsewhere, by a child process for example.
func Replay(ctx context.Context, r Record) {
	if listen, _ := ctx.Value(key{}).(func(Record)); listen != nil {
		listen(r)
	}
}

// Line names the place of a program counter, as [Record.At] does.
func Line(pc uintptr) string {
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return place(frame.File, frame.Line)
}

// at names the caller's file from the root of the source tree, which is the same in every checkout.
func at(skip int) string {
	_, file, line, ok := runtime.Caller(skip + 1)
	if !ok {
		return ""
	}
	return place(file, line)
}

func place(file string, line int) string {
	for _, top := range []string{"/labs/", "/course/", "/engine/", "/image/"} {
		if i := strings.LastIndex(file, top); i >= 0 {
			return fmt.Sprintf("%s:%d", file[i+1:], line)
		}
	}
	return fmt.Sprintf("%s:%d", path.Join(path.Base(path.Dir(file)), path.Base(file)), line)
}
