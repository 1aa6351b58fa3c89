package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// side is one way to have a container. What a side does not have is nil.
type side struct {
	name  string
	setup func(context.Context, *bench) error
	wrap  []string // stands before hyperfine, and so before each command of this side

	run  []string // start true, wait, remove
	exec []string // true in the container that hold has started
	hold func(context.Context) error
	drop func(context.Context) error

	engine *engine
}

// engine is a side with names and images. All of them have Docker's words.
type engine struct {
	program []string // with the flags that come before the words
	flags   []string // that a container needs here
	force   []string // what rm --force needs so as not to wait for the program to end by itself
}

const (
	smallImage = "nslab-bench/small:latest"
	bigImage   = "nslab-bench/big:latest"
	newImage   = "nslab-bench/committed:latest"
)

func (e *engine) cmd(words ...string) []string { return join(e.program, words) }

// container is a command on containers: exec, stop, rm.
func (e *engine) container(words ...string) []string {
	return join(e.program, []string{"container"}, words)
}

// start is container run.
func (e *engine) start(words ...string) []string {
	return join(e.program, []string{"container", "run"}, e.flags, words)
}

// remove takes running containers away, at once.
func (e *engine) remove(names ...string) []string {
	return join(e.program, []string{"container", "rm", "--force"}, e.force, names)
}

func (e *engine) load(tar, image string) []string { return e.cmd("image", "import", tar, image) }

// begin imports the image and starts one container, to see whether this side works here at all.
func (e *engine) begin(ctx context.Context, b *bench) error {
	if err := command(ctx, e.load(b.small, smallImage)...); err != nil {
		return err
	}
	b.later(e.removeAll)
	return command(ctx, e.start("--rm", smallImage, "true")...)
}

// removeAll is for containers that are still there, since a work was interrupted or has failed.
func (e *engine) removeAll() error {
	ctx := context.Background()
	out, err := output(ctx, e.container("ls", "--all", "--quiet")...)
	if err != nil {
		return err
	}
	if names := strings.Fields(out); len(names) > 0 {
		return command(ctx, e.remove(names...)...)
	}
	return nil
}

// asSide fills in what every engine does with the same words.
func (e *engine) asSide(s *side) {
	s.engine = e
	s.run = e.start("--rm", smallImage, "true")
	s.exec = e.container("exec", "bench-exec", "true")
	s.hold = func(ctx context.Context) error {
		return command(ctx, e.start("--detach", "--name", "bench-exec", smallImage, "sleep", "100000")...)
	}
	s.drop = func(ctx context.Context) error { return command(ctx, e.remove("bench-exec")...) }
}

// pid asks the engine for the process id of a container's first process.
func (e *engine) pid(ctx context.Context, name string) (int, error) {
	out, err := output(ctx, e.container("inspect", "--format", "{{.State.Pid}}", name)...)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(out)
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("%s inspect says that process %q is container %s", e.program[0], out, name)
	}
	return pid, nil
}

func command(ctx context.Context, args ...string) error {
	_, err := output(ctx, args...)
	return err
}

// output runs a command; what it says on standard error is in the error.
//
// Once begun it goes on to its end, and out of the reach of ctrl-c, in a process group of its own: podman and docker
// leave containers behind that nobody remembers when they are stopped in the middle.
func output(ctx context.Context, args ...string) (string, error) {
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(said.String()); text != "" {
			text = strings.ReplaceAll(text, "\n", "; ")
			err = fmt.Errorf("%w: %s", err, text[max(0, len(text)-300):])
		}
		return "", fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out.String()), nil
}

func join(parts ...[]string) []string { return slices.Concat(parts...) }

// quote makes a line that hyperfine takes apart again, as a shell would.
func quote(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
