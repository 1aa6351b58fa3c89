package security

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/trace"
)

// order: all of it, as `exec` does it, and once the wrong way round.
func order(t *course.T) error {
	keep, err := Capabilities(nil, nil, false)
	if err != nil {
		return err
	}
	profile, err := DefaultProfile(keep)
	if err != nil {
		return err
	}
	f, err := Compile(profile)
	if err != nil {
		return err
	}
	p := &specs.Process{Capabilities: given(keep), NoNewPrivileges: true}
	user, want := uint32(0), hex(keep)
	if !t.InUserNamespace() { // where there is somebody else to become
		const bind = "CAP_NET_BIND_SERVICE"
		user, want = nobody, hex([]string{bind})
		p.Capabilities.Inheritable, p.Capabilities.Ambient = []string{bind}, []string{bind}
	}
	cfg := setns.Config{Credential: &syscall.Credential{Uid: user, Gid: user, NoSetGroups: t.InUserNamespace()}}
	if cfg.Before, err = Before(p, f); err != nil {
		return err
	}
	if cfg.After, err = After(p); err != nil {
		return err
	}
	cfg.Last = Last(p, f)
	var made []string
	shown := t.Context()
	ctx := trace.With(t.Untraced(), func(r trace.Record) {
		name, _, _ := strings.Cut(r.Text, "(")
		drop := strings.HasPrefix(r.Text, "prctl(PR_CAPBSET_DROP")
		if !drop || !slices.Contains(made, "drop") {
			trace.Replay(shown, r)
		}
		if drop {
			name = "drop"
		}
		made = append(made, name)
	})
	confined, err := startProgram(ctx, t, cfg)
	if err != nil {
		return err
	}
	last := slices.Index(made, "seccomp")
	t.See("%s calls, of them %s to empty the bounding set; only the first of those is shown",
		str(len(made)), str(len(slices.DeleteFunc(slices.Clone(made), func(s string) bool { return s != "drop" }))))
	t.See("/proc/%s/status: Uid: %s, CapEff: %s, CapBnd: %s, NoNewPrivs: %s, Seccomp: %s", str(confined.Pid), field(confined.Pid, "Uid"),
		field(confined.Pid, "CapEff"), field(confined.Pid, "CapBnd"), field(confined.Pid, "NoNewPrivs"), field(confined.Pid, "Seccomp"))
	t.Equal(want, field(confined.Pid, "CapEff"), "the program has the capabilities that were meant for it")
	t.Equal(hex(keep), field(confined.Pid, "CapBnd"), "it can never have more than these")
	t.Equal("1 2", field(confined.Pid, "NoNewPrivs")+" "+field(confined.Pid, "Seccomp"), "it gains nothing by execve, and is filtered")
	t.Check(last >= 0 && !slices.ContainsFunc(made[last+1:], func(s string) bool { return s != "execve" }),
		"execve", strings.Join(made[last+1:], " "), "after the filter comes nothing but execve")

	// The wrong way round: who has given up CAP_SETPCAP cannot empty the bounding set any more.
	first, err := setCapabilities(given([]string{"CAP_CHOWN"}))
	if err != nil {
		return err
	}
	then, err := dropBounding([]string{"CAP_CHOWN"})
	if err != nil {
		return err
	}
	_, wrong := startProgram(only(t, "capset", "prctl(PR_CAPBSET"), t, setns.Config{Last: append(first, then...)})
	t.See("capset first, the bounding set after it: %s", evidence.Answer(wrong))
	t.Equal("EPERM", evidence.Answer(wrong), "in the wrong order the right is gone that the next step takes")
	return nil
}

// kernel: what all this does not separate.
func kernel(t *course.T) error {
	const namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET
	box, err := newBox(t, namespaces)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "01-mount-proc"); err != nil {
		return err
	}
	keep, err := Capabilities(nil, nil, false)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "10-set-capabilities", keep...); err != nil {
		return err
	}
	release, err := box.Call(t.Untraced(), "10-uname")
	if err != nil {
		return err
	}
	boot, here := strings.TrimSpace(string(read(in(box, "/proc/sys/kernel/random/boot_id")))), strings.TrimSpace(string(read("/proc/sys/kernel/random/boot_id")))
	memory, ours := line(in(box, "/proc/meminfo"), "MemTotal"), line("/proc/meminfo", "MemTotal")
	before := time.Now().UnixNano()
	said, err := box.Call(t.Untraced(), "10-clock")
	if err != nil {
		return err
	}
	after := time.Now().UnixNano()
	var inside int64
	if _, err := fmt.Sscan(said, &inside); err != nil {
		return err
	}
	clock, err := try(t.Context(), box, "settimeofday")
	if err != nil {
		return err
	}
	t.See("uname -r inside: %s; out here: %s", release, uname())
	t.See("the kernel's boot id inside: %s; out here: %s", boot, here)
	t.See("MemTotal inside: %s; out here: %s", memory, ours)
	t.See("the clock: out here %s, inside %s, out here %s (nanoseconds of this second)",
		fraction(before), fraction(inside), fraction(after))
	t.See("setting it, inside: %s", clock[0])
	t.Equal(uname(), release, "it is the same kernel")
	t.Equal(here, boot, "which was booted once")
	t.Equal(ours, memory, "/proc shows the machine's memory, whatever the limits are")
	t.Check(before <= inside && inside <= after, "between the two", fraction(inside), "it is the same clock")
	t.Equal("EPERM", clock[0], "so a container may not set it: CAP_SYS_TIME is gone")
	return nil
}

// fraction is a time's part of a second.
func fraction(nanos int64) string { return fmt.Sprintf("%09d", nanos%1e9) }

// line is the rest of a line of a file that begins with this word.
func line(path, word string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return evidence.Answer(err)
	}
	for l := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(l, word+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "–"
}
