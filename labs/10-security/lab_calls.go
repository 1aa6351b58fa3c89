package security

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
)

// refuseCall: a filter answers instead of the kernel.
func refuseCall(t *course.T) error {
	box, err := newBox(t, unix.CLONE_NEWNS)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "10-tmpfs", "/tmp", t.Name()); err != nil {
		return err
	}
	profile, err := ParseProfile([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
		[{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`), nil)
	if err != nil {
		return err
	}
	f, err := Compile(profile)
	if err != nil {
		return err
	}
	before, err := try(t.Context(), box, "mkdir")
	if err != nil {
		return err
	}
	if err := os.Remove(in(box, "/tmp/inside")); err != nil {
		return err
	}
	if err := load(t.Context(), box, f); err != nil {
		return err
	}
	after, err := try(t.Context(), box, "mkdir")
	if err != nil {
		return err
	}
	outside := evidence.Answer(os.Mkdir(in(box, "/tmp/outside"), 0o755))
	capabilities := field(box.Pid(), "CapEff")
	var disk unix.Statfs_t
	if err := unix.Statfs(in(box, "/tmp"), &disk); err != nil {
		return err
	}
	t.See("the profile: mkdir and mkdirat are answered with errno 28, which is ENOSPC; all else is allowed")
	t.See("mkdir in the box before: %s; after: %s; from outside, in the same folder: %s", before[0], after[0], outside)
	t.See("the file system has %s of %s blocks free; the box has %s capabilities",
		fmt.Sprint(disk.Bfree), fmt.Sprint(disk.Blocks), count(capabilities))
	t.See("/proc/%s/status: Seccomp: %s, Seccomp_filters: %s", str(box.Pid()), field(box.Pid(), "Seccomp"), field(box.Pid(), "Seccomp_filters"))
	t.Equal("2", field(box.Pid(), "Seccomp"), "the kernel shows mode 2: a filter")
	t.Equal("ok", before[0], "before, the box could make a folder")
	t.Equal("ENOSPC", after[0], "now it is answered what the profile says, though it is root with all capabilities")
	t.Equal("ok", outside, "the file system itself has room: the kernel was never asked")
	return nil
}

// dockersProfile: what the default allows and how it refuses.
func dockersProfile(t *course.T) error {
	box, err := newBox(t, 0)
	if err != nil {
		return err
	}
	profile, err := DefaultProfile(DefaultCapabilities())
	if err != nil {
		return err
	}
	f, err := Compile(profile)
	if err != nil {
		return err
	}
	rows := []struct{ name, text, want, check string }{
		{"chroot", `chroot("/")`, "ok", "chroot is allowed, since CAP_SYS_CHROOT is"},
		{"setns", "setns(-1, 0)", "EPERM", "setns is refused, before anybody looks at its arguments"},
		{"unshare", "unshare(0)", "EPERM", "so is unshare, even of nothing"},
		{"personality-ask", "personality(0xffffffff)", "ok", "a call may be allowed with one argument"},
		{"personality-set", "personality(ADDR_NO_RANDOMIZE)", "EPERM", "and refused with another"},
		{"clone3", "clone3(NULL, 0)", "ENOSYS", "clone3 does not exist: its arguments lie in memory, where no filter can look"},
		{"future", "syscall(1000)", "ENOSYS", "nor does a call that is newer than the profile"},
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	before, err := try(t.Untraced(), box, names...)
	if err != nil {
		return err
	}
	if err := load(t.Context(), box, f); err != nil {
		return err
	}
	after, err := try(t.Untraced(), box, names...)
	if err != nil {
		return err
	}
	more, err := DefaultProfile(append(DefaultCapabilities(), "CAP_SYS_ADMIN"))
	if err != nil {
		return err
	}
	allowed, some := allowedCalls(profile)
	admin, _ := allowedCalls(more)
	t.See("of %s calls, Docker's profile allows %s, and %s more with certain arguments; with CAP_SYS_ADMIN %s",
		str(knownCalls()), str(allowed), str(some), str(admin))
	t.See("as a program for the kernel it has %s instructions", str(len(f.Program)/size))
	for i, r := range rows {
		t.See("%s: without the filter %s, with it %s", r.text, before[i], after[i])
	}
	for i, r := range rows {
		t.Equal(r.want, after[i], r.check)
	}
	t.Check(before[1] != "EPERM", "another answer", before[1], "without the filter, setns fails for a reason of its own")
	return nil
}

// knownCalls counts the system calls of this architecture.
func knownCalls() int {
	n := 0
	for _, c := range calls {
		if c.native() {
			n++
		}
	}
	return n
}

// allowedCalls counts those that a profile allows whatever the arguments are, and those that it allows with some.
func allowedCalls(s *specs.LinuxSeccomp) (allowed, some int) {
	always, sometimes := map[string]bool{}, map[string]bool{}
	for _, e := range s.Syscalls {
		for _, n := range e.Names {
			if e.Action == specs.ActAllow {
				always[n] = always[n] || len(e.Args) == 0
				sometimes[n] = true
			}
		}
	}
	for _, c := range calls {
		switch {
		case !c.native():
		case always[c.name]:
			allowed++
		case sometimes[c.name]:
			some++
		}
	}
	return allowed, some
}

// cost: what a call costs more.
func cost(t *course.T) error {
	profile, err := DefaultProfile(DefaultCapabilities())
	if err != nil {
		return err
	}
	f, err := Compile(profile)
	if err != nil {
		return err
	}
	free, err := newBox(t, 0)
	if err != nil {
		return err
	}
	filtered, err := newBox(t, 0)
	if err != nil {
		return err
	}
	if err := load(t.Context(), filtered, f); err != nil {
		return err
	}
	// In turns, and the fastest of many: so that what else the machine does falls on both.
	const turns = 5
	bare, priced := make([]float64, 2), make([]float64, 2)
	for range turns {
		for _, m := range []struct {
			call func() (string, error)
			best []float64
		}{
			{func() (string, error) { return free.Call(t.Untraced(), "10-price") }, bare},
			{func() (string, error) { return filtered.Call(t.Untraced(), "10-price") }, priced},
		} {
			said, err := m.call()
			if err != nil {
				return err
			}
			for i, text := range strings.Fields(said) {
				n, err := strconv.ParseFloat(text, 64)
				if err != nil {
					return err
				}
				if m.best[i] == 0 || n < m.best[i] {
					m.best[i] = n
				}
			}
		}
	}
	for i, name := range []string{"getppid()", "personality(0xffffffff)"} {
		t.See("%s: %s ns without a filter, %s ns with it, × %s", name, ns(bare[i]), ns(priced[i]), fmt.Sprintf("%.2f", priced[i]/bare[i]))
	}
	t.See("the first is allowed whatever its arguments are; for the second the program runs, at each call")
	t.Equal("0 2", field(free.Pid(), "Seccomp")+" "+field(filtered.Pid(), "Seccomp"), "one box has no filter, the other has one")
	t.Check(priced[0] > 0 && priced[1] > 0, "more than 0", ns(priced[0])+", "+ns(priced[1]), "every call was answered, under the filter, too")
	return nil
}

func ns(n float64) string { return strconv.FormatFloat(n, 'f', 0, 64) }
