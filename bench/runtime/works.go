package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// work is one thing that each side does.
type work struct {
	name    string
	unit    unit
	runs    int // in each round
	warmup  int
	before  func(context.Context, *bench, *side) error
	prepare func(*bench, *side) []string // before each run, not measured
	command func(*bench, *side) []string // nil where the side does not have it
	after   func(context.Context, *bench, *side) error
	goal    *goal

	results []*result
}

// goal is what the design asks for: at most so much of what that peer takes, or at most a value.
type goal struct {
	peer  string // the beginning of its name
	ratio float64
	limit float64
}

// result is what one side needed.
type result struct {
	side   string
	values []float64
	err    error
}

func (w *work) result(name string) *result {
	for _, r := range w.results {
		if r.side == name {
			return r
		}
	}
	r := &result{side: name}
	w.results = append(w.results, r)
	return r
}

// stopped ends when it is asked to, unlike most programs that are the first of their pid namespace: the kernel does not
// deliver a signal to them for which they have no handler (pid_namespaces(7)).
const stopped = `trap exit TERM; while :; do sleep 100000 & wait; done`

// A store that has said "imported" still has it after a power cut, so it is measured against a tar that is on the disk.
const (
	tar       = "tar -xf"
	tarSynced = "tar -xf and sync"
)

func works() []*work {
	third := func(peer string) *goal { return &goal{peer: peer, ratio: 1. / 3} }
	return []*work{{
		name: "start, run true, remove", runs: 10, warmup: 2,
		command: func(_ *bench, s *side) []string { return s.run },
		goal:    third("runc"),
	}, {
		name: "exec true in a running container", runs: 10, warmup: 2,
		before:  func(ctx context.Context, _ *bench, s *side) error { return s.hold(ctx) },
		command: func(_ *bench, s *side) []string { return s.exec },
		after:   func(ctx context.Context, _ *bench, s *side) error { return s.drop(ctx) },
		goal:    third("runc"),
	}, {
		name: "stop a container that obeys", runs: 3,
		prepare: func(_ *bench, s *side) []string { return s.engine.again("bench-stop", "sh", "-c", stopped) },
		command: engineOnly(func(_ *bench, e *engine) []string { return e.container("stop", "bench-stop") }),
		after:   removeOne("bench-stop"),
	}, {
		name: "remove a running container by force", runs: 3,
		prepare: func(_ *bench, s *side) []string { return s.engine.again("bench-rm", "sleep", "100000") },
		command: engineOnly(func(_ *bench, e *engine) []string { return e.remove("bench-rm") }),
	}, {
		name: "import a tar of 250 MB", runs: 1,
		prepare: func(b *bench, s *side) []string {
			if s.engine == nil {
				return script(`rm -rf "$1"; mkdir "$1"; sync`, b.path("unpacked"))
			}
			// No such image, the first time.
			return script(`"$@" >/dev/null 2>&1; sync`, s.engine.cmd("image", "rm", "--force", bigImage)...)
		},
		command: func(b *bench, s *side) []string {
			switch {
			case s.engine != nil:
				return s.engine.load(b.big, bigImage)
			case s.name == tar:
				return []string{"tar", "-C", b.path("unpacked"), "-xpf", b.big}
			case s.name == tarSynced:
				return script(`tar -C "$1" -xpf "$2" && sync -f "$1"`, b.path("unpacked"), b.big)
			}
			return nil
		},
		after: func(_ context.Context, b *bench, _ *side) error { return os.RemoveAll(b.path("unpacked")) },
		goal:  &goal{peer: tarSynced, ratio: 1.2},
	}, {
		name: "commit a small change of it", runs: 2,
		before: func(ctx context.Context, b *bench, s *side) error {
			change := s.engine.start("--name", "bench-commit", bigImage, "sh", "-c", "echo changed > /changed")
			if command(ctx, change...) == nil {
				return nil
			}
			// The image is not there, since its import was not asked for.
			if err := command(ctx, s.engine.load(b.big, bigImage)...); err != nil {
				return err
			}
			return command(ctx, change...)
		},
		prepare: func(_ *bench, s *side) []string {
			return script(`"$@" >/dev/null 2>&1; sync`, s.engine.cmd("image", "rm", "--force", newImage)...)
		},
		command: engineOnly(func(_ *bench, e *engine) []string { return e.container("commit", "bench-commit", newImage) }),
		after:   removeOne("bench-commit"),
	}}
}

func engineOnly(f func(*bench, *engine) []string) func(*bench, *side) []string {
	return func(b *bench, s *side) []string {
		if s.engine == nil {
			return nil
		}
		return f(b, s.engine)
	}
}

func removeOne(name string) func(context.Context, *bench, *side) error {
	return func(ctx context.Context, _ *bench, s *side) error {
		return command(ctx, s.engine.remove(name)...)
	}
}

func script(text string, args ...string) []string {
	return join([]string{"sh", "-c", text, "sh"}, args)
}

// again removes the container and starts a new one of that name.
func (e *engine) again(name string, words ...string) []string {
	remove := quote(e.remove(name))
	start := quote(e.start(join([]string{"--detach", "--name", name, smallImage}, words)...))
	return script(remove + " >/dev/null 2>&1; " + start)
}

// one does a work with one side, in one round.
func (w *work) one(ctx context.Context, b *bench, s *side) (values []float64, err error) {
	if w.before != nil {
		if err := w.before(ctx, b, s); err != nil {
			return nil, err
		}
	}
	if w.after != nil {
		defer func() { err = errors.Join(err, w.after(context.WithoutCancel(ctx), b, s)) }()
	}
	var prepare []string
	if w.prepare != nil {
		prepare = w.prepare(b, s)
	}
	return hyperfine(ctx, b, s.wrap, prepare, w.command(b, s), w.runs, w.warmup)
}

// measure does all works, and prints each when it is done. In each round every side has its turn, so that a minute in
// which the machine is slow falls on all of them.
func measure(ctx context.Context, b *bench, sides []*side, rounds int, only string) error {
	all := works()
	sides = append([]*side{{name: tar}, {name: tarSynced}}, sides...)
	failed := false
	for _, w := range all {
		if !strings.Contains(w.name, only) {
			continue
		}
		for range rounds {
			for _, s := range sides {
				if r := w.result(s.name); s.has(w, b) && r.err == nil {
					values, err := w.one(ctx, b, s)
					if ctx.Err() != nil {
						return ctx.Err()
					}
					r.values, r.err = append(r.values, values...), err
					failed = failed || err != nil
				}
			}
		}
		w.print()
	}
	crowdFailed, err := measureCrowds(ctx, b, sides, rounds, only)
	if err != nil {
		return err
	}
	if failed || crowdFailed {
		return errors.New("not all could be measured")
	}
	return nil
}

// measureCrowds is the works on many containers: one crowd shows three things.
func measureCrowds(ctx context.Context, b *bench, sides []*side, rounds int, only string) (failed bool, err error) {
	start := &work{name: fmt.Sprintf("%d detached starts, %d at a time", crowd, atOnce), goal: &goal{peer: "podman", ratio: 1. / 3}}
	memory := &work{name: "memory held for each idle container (PSS)", unit: bytesUnit, goal: &goal{limit: 2e6}}
	remove := &work{name: fmt.Sprintf("remove %d running containers with one command", crowd)}
	if !strings.Contains(start.name+memory.name+remove.name, only) {
		return false, nil
	}
	for range rounds {
		for _, s := range sides {
			if s.engine == nil || start.result(s.name).err != nil {
				continue
			}
			f, err := measureCrowd(ctx, b, s.engine)
			if ctx.Err() != nil {
				return failed, ctx.Err()
			}
			if err != nil {
				start.result(s.name).err, failed = err, true
				continue
			}
			start.result(s.name).add(f.start)
			memory.result(s.name).add(f.memory)
			remove.result(s.name).add(f.remove)
			if s.name == "docker" {
				n, err := family(b.daemon)
				if err != nil {
					return failed, err
				}
				memory.result("docker's daemon, for all").add(float64(n))
			}
		}
	}
	for _, w := range []*work{start, memory, remove} {
		w.print()
	}
	return failed, nil
}

func (r *result) add(value float64) { r.values = append(r.values, value) }

func (s *side) has(w *work, b *bench) bool { return w.command(b, s) != nil }
