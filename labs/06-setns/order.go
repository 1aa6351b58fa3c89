package setns

import (
	"context"
	"os"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/walker"
)

// Entering several namespaces.
//
// Since Linux 5.8 setns(2) takes a pidfd and as many flags as one likes, and enters all of them or none. It judges every
// step with the rights that the caller had *before* the call, or will have after it. That makes the question of the order
// go away, on which the older way, one call a file, depends:
//
//   - To enter a namespace takes CAP_SYS_ADMIN twice: in one's own user namespace, and in the one that owns the namespace
//     to enter. Somebody without rights who enters a user namespace of his own gains them: it must come first. Root,
//     who enters the user namespace of a container, loses his rights over all that the container does not own, say
//     the host's network that it was given: it must come last.
//   - A mount namespace takes CAP_SYS_CHROOT as well, and it takes away the /proc that the other files are looked up in.
//     That is why plan.write has opened all files before the first call; and still it comes as late as it can, since what
//     goes wrong before it leaves us in our own root.
//   - A PID namespace can come anywhere, since it moves only children. A time namespace moves the caller at once.

// namespaces enters what cfg names.
func (p *plan) namespaces(ctx context.Context, cfg Config) error {
	joined := uintptr(0)
	if cfg.Target != nil && cfg.Namespaces != 0 {
		same, err := cfg.Target.Same(cfg.Namespaces)
		if err != nil {
			return err
		}
		if joined = cfg.Namespaces &^ same; joined != 0 {
			enter := p.atOnce
			if cfg.OneByOne || !takesPidfd() {
				enter = p.oneByOne
			}
			if err := enter(ctx, cfg.Target, joined); err != nil {
				return err
			}
		}
	}
	for _, f := range cfg.Files {
		k, err := kindOf(f)
		if err != nil {
			return err
		}
		p.setns(f, k.Flag, f.Name())
		joined |= k.Flag
	}
	if joined&unix.CLONE_NEWUSER != 0 {
		p.becomeRoot(cfg.Target)
	}
	p.forks = joined&unix.CLONE_NEWPID != 0
	return nil
}

// atOnce is one call for all.
func (p *plan) atOnce(_ context.Context, t *Target, flags uintptr) error {
	p.setns(t.pidfd, flags, t.proc.Name())
	return nil
}

// oneByOne is one call a file, in the order that the rights demand.
func (p *plan) oneByOne(ctx context.Context, t *Target, flags uintptr) error {
	for _, k := range order(flags, privileged()) {
		f, err := t.file(ctx, "ns/"+k.Name, unix.O_RDONLY)
		if err != nil {
			return err
		}
		p.open = append(p.open, f)
		p.setns(f, k.Flag, f.Name())
	}
	return nil
}

// order sorts kinds of namespaces for entering one after the other.
func order(flags uintptr, privileged bool) []Kind {
	names := []string{"user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt"}
	if privileged {
		names = append(names[1:], "user")
	}
	var list []Kind
	for _, name := range names {
		for _, k := range kinds {
			if k.Name == name && flags&k.Flag != 0 {
				list = append(list, k)
			}
		}
	}
	return list
}

func (p *plan) setns(f *os.File, flags uintptr, what string) {
	c := p.call("setns", what, "setns(%s, %s)", p.shown(f), flagNames(flags))
	c.flags = flags
	p.add(walker.Must, c, unix.SYS_SETNS, p.fd(f), flags)
}

// becomeRoot takes the identity 0:0 of a user namespace that was just entered. Our own ids need not exist in there; and a
// process whose ids do not exist owns nothing, whatever capabilities it holds. Groups of the host are dropped, unless the
// namespace forbids it (user_namespaces(7)): then whoever made it had no right to drop them.
func (p *plan) becomeRoot(t *Target) {
	uid, gid, groups := true, true, false
	if t != nil {
		uid, gid, groups = t.mapsRoot()
	}
	if groups {
		p.setGroups(nil)
	}
	if gid {
		p.setIDs("setresgid", unix.SYS_SETRESGID, 0)
	}
	if uid {
		p.setIDs("setresuid", unix.SYS_SETRESUID, 0)
	}
}

// CloneFlags are those of the only clone that a child makes.
const CloneFlags = unix.CLONE_PARENT | uintptr(unix.SIGCHLD)

// clone makes the process that is in the PID namespace; the caller stays outside of it, and ends.
//
// A process never changes its PID namespace: its number would change, which it and others remember. So setns(2) says only
// in which one its children are born (/proc/PID/ns/pid_for_children). With CLONE_PARENT the new process is not our child
// but our brother, a child of nslab: which can wait for it. See pid_namespaces(7).
func (p *plan) clone(context.Context, Config) error {
	if !p.forks {
		return nil
	}
	p.add(walker.Forks, p.call("clone", "", "clone(CLONE_PARENT|SIGCHLD)"), unix.SYS_CLONE, CloneFlags)
	return nil
}

// privileged tells whether we have the capability that entering takes. Root of a container often has not.
func privileged() bool {
	c, err := capability.NewPid2(0)
	return err == nil && c.Load() == nil && c.Get(capability.EFFECTIVE, capability.CAP_SYS_ADMIN)
}

// takesPidfd tries whether setns(2) takes a pidfd, by entering a namespace that we are in. EPERM is a yes, too: a kernel
// that does not know pidfds answers EINVAL before it looks at rights.
func takesPidfd() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(fd), unix.CLONE_NEWUTS, 0)
	return errno == 0 || errno == unix.EPERM
}
