package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	setns "github.com/nslab/nslab/labs/06-setns"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/walker"
)

// ExecConfig is a further program for a container that runs.
type ExecConfig struct {
	Process *specs.Process
	Filter  *security.Filter // the container's own
	User    string           // "name[:group]", as in [Config]
	Groups  []string

	TimerSlack uint64 // as in [Config]

	Stdin, Stdout, Stderr *os.File // of the program; nil is /dev/null. Not used with Process.Terminal
	Pdeathsig             syscall.Signal
}

// Exec runs one more program in the container: with its namespaces, control group, root, rights and limits, exactly as if
// its init had started it. It returns when the program runs. The outer end of the terminal is nil where none was asked for.
//
// Nothing of nslab is executed inside. A child of some two hundred instructions goes in by setns(2), undumpable, and its next call
// is the program's execve; see labs/06-setns.
func (s *State) Exec(ctx context.Context, cfg ExecConfig) (_ *setns.Process, tty *os.File, err error) {
	target, err := setns.Open(ctx, s.Pid)
	if err != nil {
		return nil, nil, err
	}
	defer target.Close()
	tree, err := rootfs.OpenTree(ctx, fmt.Sprintf("/proc/%d/root", s.Pid))
	if err != nil {
		return nil, nil, err
	}
	defer tree.Close()
	if !s.Alive() { // then what was just opened may be somebody else's
		return nil, nil, ErrState
	}
	id, err := execIdentity(ctx, tree, cfg)
	if err != nil {
		return nil, nil, execError(cfg.Process, err)
	}
	p := cfg.Process
	c := setns.Config{
		Target: target, Namespaces: setns.All, Root: true, Dir: p.Cwd,
		Credential: &syscall.Credential{Uid: id.uid, Gid: id.gid, Groups: id.groups, NoSetGroups: !id.asked && setgroupsDenied(strconv.Itoa(s.Pid))},
		Path:       p.Args[0], Args: p.Args, Env: withHome(p.Env, id.home), Pdeathsig: cfg.Pdeathsig,
	}
	if s.Group != nil {
		for _, d := range s.Group.Dirs {
			c.Groups = append(c.Groups, d.Path)
		}
	}
	inner, null, err := execStreams(ctx, &c, cfg, tree, id, &tty)
	defer closeAll(inner, null)
	if err != nil {
		return nil, tty, errors.Join(err, closeAll(tty))
	}
	own, err := rights(&c, cfg, id)
	c.Last = append(own, c.Last...) // by the process that is cloned in the end
	if err != nil {
		return nil, nil, errors.Join(err, closeAll(tty))
	}
	process, err := setns.Start(ctx, c)
	if err != nil {
		return nil, nil, errors.Join(execError(p, err), closeAll(tty))
	}
	return process, tty, nil
}

func execIdentity(ctx context.Context, tree *rootfs.Tree, cfg ExecConfig) (identity, error) {
	if cfg.User != "" || len(cfg.Groups) > 0 {
		return lookUp(ctx, tree, cfg.User, cfg.Groups)
	}
	return identityOf(ctx, tree, cfg.Process.User)
}

// execStreams prepares what becomes descriptors 0 to 2.
func execStreams(ctx context.Context, c *setns.Config, cfg ExecConfig, tree *rootfs.Tree, id identity, tty **os.File) (inner, null *os.File, err error) {
	if cfg.Process.Terminal {
		dev, err := rootfs.OpenMounted(ctx, tree, "dev")
		if err != nil {
			return nil, nil, err
		}
		defer dev.Close()
		if *tty, inner, err = openTerminal(ctx, dev); err != nil {
			return nil, nil, err
		}
		if err := setSize(*tty, cfg.Process.ConsoleSize); err != nil {
			return inner, nil, err
		}
		if err := unix.Fchown(int(inner.Fd()), int(id.uid), -1); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
			return inner, nil, fmt.Errorf("12-container: give the terminal to user %d: %w", id.uid, err)
		}
		c.Streams = []*os.File{inner, inner, inner}
		return inner, nil, nil
	}
	if null, err = nullOf(ctx, tree); err != nil {
		return nil, nil, err
	}
	for _, f := range []*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr} {
		if f == nil {
			f = null
		} else if err := giveAway(int(f.Fd()), id.uid); err != nil {
			return nil, null, err
		}
		c.Streams = append(c.Streams, f)
	}
	return nil, null, nil
}

// nullOf opens a null device that is the container's own, if it can be.
func nullOf(ctx context.Context, tree *rootfs.Tree) (*os.File, error) {
	dev, err := rootfs.OpenMounted(ctx, tree, "dev")
	if err != nil {
		return security.Null(ctx, nil)
	}
	defer dev.Close()
	return security.Null(ctx, dev)
}

// keys leaves the caller's keys behind: see initProcess.session.
var keys = setns.Call{
	Trap: unix.SYS_KEYCTL, Args: [6]uintptr{unix.KEYCTL_JOIN_SESSION_KEYRING}, Op: "keyctl", May: true,
	Text: "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)",
}

// rights adds the calls that make the child no more privileged than the container's own init. Those that it returns are to be made by
// the process that becomes the program, and take no rights.
func rights(c *setns.Config, cfg ExecConfig, id identity) (own []setns.Call, err error) {
	given := *cfg.Process
	p := &given
	p.Capabilities = id.capabilities(p.Capabilities)
	before, err := security.Before(p, cfg.Filter)
	if err != nil {
		return nil, err
	}
	// A filter that takes rights to be loaded is there before the clone. One that forbids it, which a profile may, has to wait.
	c.ForkFirst = cfg.Filter != nil && !p.NoNewPrivileges && !cfg.Filter.Allows(unix.SYS_CLONE, uint64(setns.CloneFlags))
	if c.After, err = security.After(p); err != nil {
		return nil, err
	}
	own = append(own, setns.Call{Trap: unix.SYS_SETSID, Op: "setsid", Text: "setsid()"})
	for _, r := range p.Rlimits {
		limit, err := reachable(r)
		if err != nil {
			return nil, err
		}
		list := &c.Before
		if r.Type == "RLIMIT_NPROC" {
			list = &own // it takes no rights to lower it, and the process that makes the program's would count, too
		}
		*list = append(*list, setns.Call{
			Trap: unix.SYS_PRLIMIT64, Args: [6]uintptr{0, uintptr(rlimits[r.Type])}, Data: [6]*walker.Data{2: {Bytes: limitBytes(limit)}}, Op: "prlimit",
			Text: fmt.Sprintf("prlimit(0, %s, {%d, %d})", r.Type, limit.Cur, limit.Max),
		})
	}
	c.Before = append(append(c.Before, keys), before...)
	if cfg.TimerSlack != 0 {
		own = append(own, setns.Call{
			Trap: unix.SYS_PRCTL, Args: [6]uintptr{unix.PR_SET_TIMERSLACK, uintptr(cfg.TimerSlack)}, Op: "prctl",
			Text: fmt.Sprintf("prctl(PR_SET_TIMERSLACK, %d)", cfg.TimerSlack),
		})
	}
	if p.Terminal {
		own = append(own, setns.Call{
			Trap: unix.SYS_IOCTL, Args: [6]uintptr{0, unix.TIOCSCTTY, 0}, Op: "ioctl", Text: "ioctl(0, TIOCSCTTY, 0)",
		})
	}
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	own = append(own, setns.Call{
		Trap: unix.SYS_UMASK, Args: [6]uintptr{uintptr(umask)}, Op: "umask", Text: fmt.Sprintf("umask(%#o)", umask),
	})
	c.Last = security.Last(p, cfg.Filter)
	return own, nil
}

// limitBytes is a struct rlimit64.
func limitBytes(l *unix.Rlimit) []byte {
	return binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, l.Cur), l.Max)
}

// reachable lowers a limit to what may be set: to raise a hard limit takes CAP_SYS_RESOURCE.
func reachable(r specs.POSIXRlimit) (*unix.Rlimit, error) {
	resource, ok := rlimits[r.Type]
	if !ok {
		return nil, fmt.Errorf("12-container: resource limit %q: %w", r.Type, errors.ErrUnsupported)
	}
	want, have := unix.Rlimit{Cur: r.Soft, Max: r.Hard}, unix.Rlimit{}
	if err := unix.Prlimit(0, resource, nil, &have); err != nil {
		return nil, fmt.Errorf("12-container: read limit %s: %w", r.Type, err)
	}
	if want.Max <= have.Max {
		return &want, nil
	}
	// It may be refused in the child, where nobody could react any more, so it is tried here, and taken back.
	err := unix.Prlimit(0, resource, &unix.Rlimit{Cur: have.Cur, Max: want.Max}, nil)
	if errors.Is(err, unix.EPERM) {
		return &unix.Rlimit{Cur: min(want.Cur, have.Max), Max: have.Max}, nil
	}
	if err == nil {
		err = unix.Prlimit(0, resource, &have, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("12-container: raise limit %s: %w", r.Type, err)
	}
	return &want, nil
}

// execError puts a refused execve into words, as for the init.
func execError(p *specs.Process, err error) error {
	var refused *setns.Error
	var kind *kindError
	switch {
	case errors.As(err, &kind):
		return AsInitError(err)
	case !errors.As(err, &refused):
		return err
	}
	switch refused.Op {
	case "execve":
		searched := !strings.Contains(p.Args[0], "/")
		if searched && errors.Is(err, unix.ENAMETOOLONG) {
			refused.Err = unix.ENOENT
		}
		return AsInitError(programError(p.Args[0], refused.Err, searched))
	case "chdir", "getcwd":
		return AsInitError(&kindError{KindCwd, fmt.Errorf("chdir to cwd (%q): %w", p.Cwd, refused.Err)})
	case "setgroups", "setresgid", "setresuid":
		return AsInitError(&kindError{KindUser, fmt.Errorf("12-container: become user: %w", err)})
	}
	return err
}

func closeAll(files ...*os.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
