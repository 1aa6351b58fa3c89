package security

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/trace"
)

//go:embed security.go capability.go confine.go profile.go default.go compile.go program.go parcel.go load.go
//go:embed paths.go devices.go devices_bpf.go errors.go
//go:embed lab.go lab_rights.go lab_calls.go lab_files.go lab_whole.go actors.go zh.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_rights.go (capabilities, no_new_privs), lab_calls.go (seccomp),
// lab_files.go (masked paths, devices) and lab_whole.go (all of it, and what it does not separate).
var Lab = course.Lab{
	Number: 10, Slug: "security", Minutes: 30,
	Title: course.Text{En: "Root that cannot do much", Zh: "做不了多少事的 root"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS, course.NeedUTSNS, course.NeedNetNS, course.NeedTmpfs,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "split", Answer: 2, Run: split},
		{ID: "regain", Answer: 2, Run: regain},
		{ID: "no-new-privs", Answer: 3, Run: noMore},
		{ID: "seccomp", Answer: 2, Run: refuseCall},
		{ID: "profile", Answer: 2, Run: dockersProfile},
		{ID: "cost", Run: cost},
		{ID: "mask", Answer: 2, Run: cover},
		{ID: "devices", Answer: 1, Run: devices},
		{ID: "order", Answer: 3, Run: order},
		{ID: "kernel", Answer: 2, Run: kernel},
	},
	Zh:   zh,
	Undo: cgroups.Undos(),
}

// newBox starts a process to take rights from.
func newBox(t *course.T, namespaces uintptr) (*pid.Box, error) {
	return pid.NewBox(t.Untraced(), t, pid.Config{Namespaces: namespaces})
}

// startProgram starts a program that does nothing, as cfg says, and ends it with the step.
func startProgram(ctx context.Context, t *course.T, cfg setns.Config) (_ *setns.Process, err error) {
	if cfg.Path == "" {
		if cfg.Path, err = exec.LookPath("sleep"); err != nil {
			return nil, err
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	cfg.Args, cfg.Env = []string{"sleep", "1000"}, os.Environ()
	cfg.Streams = []*os.File{null, null, null}
	cfg.Pdeathsig = syscall.SIGKILL
	p, err := setns.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func(ctx context.Context) error { return errors.Join(p.Kill(ctx), p.Close()) })
	return p, nil
}

// only is the step's context for calls whose names begin with one of these words.
func only(t *course.T, words ...string) context.Context {
	shown := t.Context()
	return trace.With(t.Untraced(), func(r trace.Record) {
		if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(r.Text, w) }) {
			trace.Replay(shown, r)
		}
	})
}

// first is the step's context for the first n calls: the rest are more of the same.
func first(t *course.T, n int) context.Context {
	shown := t.Context()
	return trace.With(t.Untraced(), func(r trace.Record) {
		if n > 0 {
			trace.Replay(shown, r)
		}
		n--
	})
}

// load puts a filter on a box.
func load(ctx context.Context, box *pid.Box, f *Filter) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	_, err = box.Call(ctx, "10-load", string(text))
	return err
}

// try has a box try calls, and returns the answer to each.
func try(ctx context.Context, box *pid.Box, names ...string) ([]string, error) {
	answers, err := box.Call(ctx, "10-try", names...)
	return strings.Fields(answers), err
}

// field is a line of /proc/PID/status, read from outside.
func field(pid int, name string) string {
	value, err := evidence.Status(pid, name)
	if err != nil {
		return evidence.Answer(err)
	}
	return value
}

// hex writes a set of capabilities as the kernel does.
func hex(names []string) string {
	s, err := bits(names)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%016x", uint64(s))
}

// count tells how many capabilities such a number stands for.
func count(hex string) string {
	n, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return "–"
	}
	ones := 0
	for ; n != 0; n &= n - 1 {
		ones++
	}
	return strconv.Itoa(ones)
}

// in is a path of a box, for us outside.
func in(box *pid.Box, path string) string { return evidence.Inside(box.Pid(), path) }

func str(n int) string { return strconv.Itoa(n) }

// uname is the release of the kernel that answers to us.
func uname() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return evidence.Answer(err)
	}
	return unix.ByteSliceToString(u.Release[:])
}
