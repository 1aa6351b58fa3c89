package security

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	pid "github.com/nslab/nslab/labs/01-pid"
	setns "github.com/nslab/nslab/labs/06-setns"
)

// split: root without most of what makes it root.
func split(t *course.T) error {
	box, err := newBox(t, unix.CLONE_NEWUTS)
	if err != nil {
		return err
	}
	keep, err := Capabilities(nil, nil, false)
	if err != nil {
		return err
	}
	full := field(box.Pid(), "CapEff")
	before, err := try(t.Untraced(), box, "chroot", "sethostname", "settimeofday")
	if err != nil {
		return err
	}
	t.See("CapEff: %s, which are %s capabilities; chroot: %s, sethostname: %s, settimeofday: %s",
		full, count(full), before[0], before[1], before[2])
	if _, err := box.Call(t.Context(), "10-set-capabilities", keep...); err != nil {
		return err
	}
	after, err := try(t.Context(), box, "chroot", "sethostname", "settimeofday")
	if err != nil {
		return err
	}
	left := field(box.Pid(), "CapEff")
	uid, _, _ := strings.Cut(field(box.Pid(), "Uid"), " ")
	own, _, _ := strings.Cut(field(os.Getpid(), "Uid"), " ")
	t.See("CapEff: %s, which are %s capabilities; chroot: %s, sethostname: %s, settimeofday: %s",
		left, count(left), after[0], after[1], after[2])
	t.Equal(hex(keep), left, "what is left are Docker's capabilities, no more and no less")
	t.Equal(own, uid, "the user is the same as before")
	t.Equal("ok", before[1], "before, the host name could be set")
	t.Equal("ok", after[0], "chroot works: CAP_SYS_CHROOT is among those that are left")
	t.Equal("EPERM", after[1], "sethostname is refused: it takes CAP_SYS_ADMIN")
	t.Equal("EPERM", after[2], "settimeofday is refused: it takes CAP_SYS_TIME")
	return nil
}

// regain: what a process gives up, the next program of root has again, unless the bounding set forbids it.
func regain(t *course.T) error {
	keep, err := Capabilities(nil, nil, false)
	if err != nil {
		return err
	}
	p := &specs.Process{Capabilities: given(keep)}
	calls, err := After(p)
	if err != nil {
		return err
	}
	// It gains rights, so the kernel forgets its parent-death signal: in the PID namespace of a box it ends with that.
	box, err := newBox(t, unix.CLONE_NEWPID)
	if err != nil {
		return err
	}
	target, err := setns.Open(t.Untraced(), box.Pid())
	if err != nil {
		return err
	}
	defer target.Close()
	careless, err := startProgram(only(t, "capset", "execve"), t, setns.Config{Target: target, Namespaces: unix.CLONE_NEWPID, After: calls})
	if err != nil {
		return err
	}
	bound, err := Before(p, nil)
	if err != nil {
		return err
	}
	careful, err := startProgram(only(t, "prctl(PR_CAPBSET_DROP, CAP_SYS_TIME", "capset", "execve"), t, setns.Config{Before: bound, After: calls})
	if err != nil {
		return err
	}
	ours := field(os.Getpid(), "CapBnd")
	shown := func(pid int) (effective, number, bounding string) {
		effective = field(pid, "CapEff")
		return effective, count(effective), field(pid, "CapBnd")
	}
	effective, number, bounding := shown(careless.Pid)
	t.See("capset only, then a program, process %s: CapEff: %s (%s), CapBnd: %s", str(careless.Pid), effective, number, bounding)
	effective, number, bounding = shown(careful.Pid)
	t.See("the bounding set first, process %s: CapEff: %s (%s), CapBnd: %s", str(careful.Pid), effective, number, bounding)
	t.Equal(ours, field(careless.Pid, "CapEff"), "after capset alone, execve gives root everything back")
	t.Equal(hex(keep), field(careful.Pid, "CapBnd"), "the bounding set has lost what is not kept: one prctl for each")
	t.Equal(hex(keep), field(careful.Pid, "CapEff"), "and what is not in it does not come back")
	return nil
}

// noMore: with no_new_privs, execve gives nothing that was not there.
func noMore(t *course.T) error {
	keep, err := Capabilities(nil, nil, false)
	if err != nil {
		return err
	}
	process := &specs.Process{Capabilities: given(keep), NoNewPrivileges: true}
	calls, err := After(process)
	if err != nil {
		return err
	}
	p, err := startProgram(only(t, "capset", "prctl(PR_SET_NO", "execve"), t, setns.Config{After: calls, Last: Last(process, nil)})
	if err != nil {
		return err
	}
	t.See("root, capset only, with no_new_privs: NoNewPrivs: %s, CapEff: %s (%s), CapBnd: %s",
		field(p.Pid, "NoNewPrivs"), field(p.Pid, "CapEff"), count(field(p.Pid, "CapEff")), field(p.Pid, "CapBnd"))
	t.Equal("1", field(p.Pid, "NoNewPrivs"), "the kernel has noted it")
	t.Equal(hex(keep), field(p.Pid, "CapEff"), "root's next program gets back nothing, though the bounding set is full")
	if t.InUserNamespace() {
		t.See("a set-user-id program is left out: as an ordinary user you have one user id only")
		return nil
	}
	return setUserID(t)
}

// nobody is a user who may nothing.
const nobody = 65534

// setUserID lets an ordinary user execute a program that becomes root.
func setUserID(t *course.T) error {
	// The kernel forgets the parent-death signal of a program that gains rights. In a PID namespace it ends with the box, which
	// does not gain any.
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID
	box, err := newBox(t, namespaces)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "10-tmpfs", "/tmp", t.Name()); err != nil {
		return err
	}
	if err := copySleep(box); err != nil {
		return err
	}
	target, err := setns.Open(t.Untraced(), box.Pid())
	if err != nil {
		return err
	}
	defer target.Close()
	cfg := setns.Config{
		Target: target, Namespaces: namespaces, Path: "/tmp/sleep", Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
	}
	rising, err := startProgram(only(t, "setresuid", "execve"), t, cfg)
	if err != nil {
		return err
	}
	cfg.Last = Last(&specs.Process{NoNewPrivileges: true}, nil)
	staying, err := startProgram(only(t, "setresuid", "prctl(PR_SET_NO", "execve"), t, cfg)
	if err != nil {
		return err
	}
	for _, p := range []*setns.Process{rising, staying} {
		t.See("user %s executes root's set-user-id program: NoNewPrivs: %s, Uid: %s, CapEff: %s", str(nobody),
			field(p.Pid, "NoNewPrivs"), field(p.Pid, "Uid"), field(p.Pid, "CapEff"))
	}
	t.Equal("65534 0 0 0", field(rising.Pid, "Uid"), "the set-user-id bit makes root of anybody")
	t.Equal("65534 65534 65534 65534", field(staying.Pid, "Uid"), "with no_new_privs the same program runs as its user")
	t.Equal("0000000000000000", field(staying.Pid, "CapEff"), "and has no capability")
	return nil
}

// copySleep makes a set-user-id copy of sleep in a box.
func copySleep(box *pid.Box) error {
	path, err := exec.LookPath("sleep")
	if err != nil {
		return err
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(in(box, "/tmp/sleep"))
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.Chmod(0o755 | os.ModeSetuid)
}
