package setns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/walker"
)

// Config says what a child of [Start] enters, and what it executes there.
type Config struct {
	Target     *Target    // the process to go to; nil where only Files are entered
	Namespaces uintptr    // CLONE_NEW*: which of its namespaces; those that are ours already are left alone
	Files      []*os.File // single namespaces, from [OpenFile]
	OneByOne   bool       // enter each by its own file even where the kernel could do all with one call

	Groups []string // folders of control groups to be in, one in each hierarchy
	Root   bool     // take the target's root folder, too: it need not be that of its mount namespace
	RootAt *os.File // or this one
	Cwd    bool     // and its working folder
	Dir    string   // a working folder by name, looked up inside

	// Who to be in the end. nil stays who we are; but who enters a user namespace becomes its root, where it has one:
	// before that one is nobody there.
	Credential *syscall.Credential

	Path      string     // the program; one without a slash is searched in the PATH of Env, inside
	Places    []string   // where to look for it, instead of that
	Args, Env []string   // Args[0] is the program's own name
	Streams   []*os.File // becomes descriptor 0, 1, 2; nil is 0 to 2 of ours

	Pdeathsig syscall.Signal // what the kernel sends the program when we end

	// Calls to make before Credential is taken, with the rights that this gives away: PR_CAPBSET_DROP takes CAP_SETPCAP,
	// PR_SET_KEEPCAPS has to be said while there is something to keep.
	Before []Call

	// Calls to make once it is taken: the final capabilities. What they take away is not there any more when the program's
	// process comes into its PID namespace.
	After []Call

	// Make that process first of all, with all rights: for a filter among Before that does not allow clone.
	ForkFirst bool

	// Calls to make in that process, just before execve: a session, a controlling terminal, and a seccomp filter as the very
	// last. They must not change who we are: the kernel would forget Pdeathsig.
	Last []Call
}

// planned is what the parent keeps of a step.
type planned struct {
	op, what string
	flags    uintptr
	text     string
	at       string // where it stands in the source
}

// plan is the list of the child's calls while it is written.
type plan struct {
	list  walker.List
	calls []planned
	files []*os.File // what the child has open, from walker.First on
	open  []*os.File // which of them we have opened for it
	born  *os.File   // the control group of v2 that the child begins in
	forks bool       // the program is a grandchild

	traced bool // somebody wants to see the calls
	first  int  // the first of the steps that execute
}

// add writes down one more step. at is taken from the caller's line, which is where the arguments are chosen.
func (p *plan) add(kind uintptr, c planned, trap uintptr, args ...uintptr) {
	if p.traced {
		ctx := trace.With(context.Background(), func(r trace.Record) { c.at = r.At })
		trace.Call(ctx, 1, func() string { return "" }, func() error { return nil })
	}
	p.list.Add(kind, trap, args...)
	p.calls = append(p.calls, c)
}

// fd is the number that the child has a file by. A file that we have opened for it is closed when it has begun.
func (p *plan) fd(f *os.File) uintptr {
	for i, g := range p.files {
		if f == g {
			return uintptr(walker.First + i)
		}
	}
	p.files = append(p.files, f)
	return uintptr(walker.First + len(p.files) - 1)
}

// shown writes a descriptor of the child as `strace -y` does: with what it is open for.
func (p *plan) shown(f *os.File) string { return fmt.Sprintf("%d<%s>", p.fd(f), f.Name()) }

// call is what most steps are to the parent. The text is for who listens.
func (p *plan) call(op, what, format string, args ...any) planned {
	c := planned{op: op, what: what}
	if p.traced {
		c.text = fmt.Sprintf(format, args...)
	}
	return c
}

func (p *plan) close() error {
	var errs []error
	for _, f := range p.open {
		errs = append(errs, f.Close())
	}
	p.open = nil
	return errors.Join(errs...)
}

// write writes the whole list. Everything that has a name is opened here, by the parent, before the first namespace is
// entered: afterwards the name would be looked up in another root, through another /proc, with other rights.
//
// The order of the parts is that of what the kernel requires:
//
//  1. undumpable, before anybody inside can see us
//  2. control groups, before the namespaces: what follows is then counted there already, and a process that is cloned
//     later is born there
//  3. the namespaces
//  4. an identity in the user namespace, since without one even root owns nothing there
//  5. root, then working folder: chroot(2) moves no working folder, so it is checked *after* both
//  6. descriptors, which must be there before a filter may be
//  7. the final identity, which may give away the rights that all this took; before it, what still takes them
//  8. the clone, if a PID namespace is entered: until here nobody inside could see us, and whom he sees now has no more
//     rights than he has
//  9. signals, last calls, execve: what a seccomp filter is asked for is as little as can be, since a program's filter
//     knows what the program needs, and nothing of us
func (p *plan) write(ctx context.Context, cfg Config) error {
	// CVE-2016-9962: as soon as we are in the container's PID namespace, its root may ptrace us, and through our open
	// descriptors reach the host. A process that is not dumpable can't be traced, but by one with CAP_SYS_PTRACE, which
	// people give to debuggers; so by then there is nothing left to be reached, either. execve(2) makes it dumpable again.
	p.add(walker.Must, p.call("prctl", "", "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE)"), unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	early, late := nothing, p.clone
	if cfg.ForkFirst {
		early, late = late, early
	}
	for _, part := range []func(context.Context, Config) error{
		p.groups, p.namespaces, early, p.folders, p.streams, p.before, p.identity, p.after, late, p.signals, p.last, p.execute,
	} {
		if err := part(ctx, cfg); err != nil {
			return err
		}
	}
	return nil
}

func nothing(context.Context, Config) error { return nil }

// groups moves the child into control groups. Of v2 it is born in one, see launch. In v1 a thread is moved by writing 0, which
// means the writer, to the file tasks: it is the child's only one. cgroup.procs moves a whole process, for which the kernel keeps all
// processes of the machine from making threads, and waits for milliseconds (an RCU grace period) until nobody does. See cgroups(7).
func (p *plan) groups(ctx context.Context, cfg Config) error {
	for _, dir := range cfg.Groups {
		name := filepath.Join(dir, "tasks")
		f, err := open(trace.Off(ctx), unix.AT_FDCWD, name, name, unix.O_WRONLY)
		if errors.Is(err, unix.ENOENT) {
			if p.born, err = open(trace.Off(ctx), unix.AT_FDCWD, dir, dir, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
				return err
			}
			p.open = append(p.open, p.born)
			continue
		}
		if err != nil {
			return err
		}
		p.open = append(p.open, f)
		self, err := p.list.Text("0")
		if err != nil {
			return err
		}
		p.add(walker.Must, p.call("write", name, `write(%s, "0", 1)`, p.shown(f)), unix.SYS_WRITE, p.fd(f), self, 1)
	}
	return nil
}

// folders takes over root and working folder of the target.
//
// A mount namespace brings a root of its own, that of its first mount: entering it has moved us there. The container may
// have called chroot(2) since, though, so its root is taken through the descriptor of /proc/PID/root, opened before.
func (p *plan) folders(ctx context.Context, cfg Config) error {
	root := cfg.RootAt
	if cfg.Root {
		var err error
		if root, err = cfg.Target.file(ctx, "root", unix.O_PATH|unix.O_DIRECTORY); err != nil {
			return err
		}
		p.open = append(p.open, root)
	}
	if root != nil {
		dot, err := p.list.Text(".")
		if err != nil {
			return err
		}
		p.add(walker.Must, p.call("fchdir", root.Name(), "fchdir(%s)", p.shown(root)), unix.SYS_FCHDIR, p.fd(root))
		p.add(walker.Must, p.call("chroot", root.Name(), `chroot(".")`), unix.SYS_CHROOT, dot)
	}
	if cfg.Cwd {
		cwd, err := cfg.Target.file(ctx, "cwd", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		p.open = append(p.open, cwd)
		p.add(walker.Must, p.call("fchdir", cwd.Name(), "fchdir(%s)", p.shown(cwd)), unix.SYS_FCHDIR, p.fd(cwd))
	}
	if cfg.Dir != "" {
		dir, err := p.list.Text(cfg.Dir)
		if err != nil {
			return err
		}
		p.add(walker.Must, p.call("chdir", cfg.Dir, "chdir(%q)", cfg.Dir), unix.SYS_CHDIR, dir)
	}
	if cfg.Cwd || cfg.Dir != "" {
		// CVE-2024-21626: a name like /proc/self/fd/7 leads to wherever descriptor 7 is open, and until execve we have
		// descriptors of the host. The program would start with a working folder of the host, and "../../etc/shadow"
		// is the host's then. getcwd(2) tells: of a folder that is not below the root it says "(unreachable)/…".
		at, size := walker.Cwd()
		p.add(walker.Locates, p.call("getcwd", cfg.Dir, "getcwd()"), unix.SYS_GETCWD, at, size)
	}
	return nil
}

// identity becomes who the program is to run as. Groups come first: it takes rights to change them, which the change of
// the user gives away.
func (p *plan) identity(_ context.Context, cfg Config) error {
	c := cfg.Credential
	if c == nil {
		return nil
	}
	if !c.NoSetGroups {
		p.setGroups(c.Groups)
	}
	p.setIDs("setresgid", unix.SYS_SETRESGID, c.Gid)
	p.setIDs("setresuid", unix.SYS_SETRESUID, c.Uid)
	return nil
}

func (p *plan) setGroups(groups []uint32) {
	var numbers []byte
	for _, g := range groups {
		numbers = binary.NativeEndian.AppendUint32(numbers, g)
	}
	list := p.list.Put(&walker.Data{Bytes: numbers})
	p.add(walker.Must, p.call("setgroups", fmt.Sprint(groups), "setgroups(%d, %v)", len(groups), groups), unix.SYS_SETGROUPS, uintptr(len(groups)), list)
}

func (p *plan) setIDs(op string, trap uintptr, id uint32) {
	p.add(walker.Must, p.call(op, fmt.Sprint(id), "%s(%[2]d, %[2]d, %[2]d)", op, id), trap, uintptr(id), uintptr(id), uintptr(id))
}

// streams sees to it that the program gets no descriptors but its own.
//
// Those are in their places already, and the walker has been given what the steps before this one name, too. Who started us may have
// left others; and none of ours are for the eyes of the processes in the PID namespace that comes next. So all are closed but
// the socket to our maker, which execve closes: that is how he hears that the program runs.
func (p *plan) streams(context.Context, Config) error {
	p.add(walker.Must, planned{op: "fcntl"}, unix.SYS_FCNTL, walker.Socket, unix.F_SETFD, unix.FD_CLOEXEC)
	p.add(walker.Must, planned{op: "shutdown"}, unix.SYS_SHUTDOWN, walker.Socket, unix.SHUT_RD) // from here on it only reports
	p.add(walker.Must, p.call("close_range", "", "close_range(%d, ~0U, 0)", walker.First), unix.SYS_CLOSE_RANGE, walker.First, math.MaxUint32, 0)
	return nil
}

// before is what the caller wants done while we have the rights to.
func (p *plan) before(_ context.Context, cfg Config) error {
	p.callers(cfg.Before)
	return nil
}

// after is what he wants done when they are gone.
func (p *plan) after(_ context.Context, cfg Config) error {
	p.callers(cfg.After)
	return nil
}

// last is what the caller wants done in the end.
func (p *plan) last(_ context.Context, cfg Config) error {
	p.callers(cfg.Last)
	return nil
}

func (p *plan) callers(list []Call) {
	for _, c := range list {
		kind := uintptr(walker.Must)
		switch {
		case c.Trap == unix.SYS_SECCOMP:
			kind = walker.Seals
		case c.May:
			kind = walker.Optional
		}
		args := c.Args
		for i, d := range c.Data {
			if d != nil {
				args[i] = p.list.Put(d)
			}
		}
		p.add(kind, planned{op: c.Op, what: c.What, text: c.Text}, c.Trap, args[:]...)
		if p.traced && c.At != 0 {
			p.calls[len(p.calls)-1].at = trace.Line(c.At)
		}
	}
}

// signals is what must come after all changes of identity, and makes the mask of signals what it was.
func (p *plan) signals(_ context.Context, cfg Config) error {
	if cfg.Pdeathsig != 0 {
		// The kernel forgets this at every fork and change of identity. Whether our maker died before it was set shows
		// when the steps up to here are reported: nobody reads.
		p.add(walker.Must, p.call("prctl", "", "prctl(PR_SET_PDEATHSIG, %s)", unix.SignalName(cfg.Pdeathsig)),
			unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(cfg.Pdeathsig))
	}
	mask := walker.SetMask(walker.AllSignals)
	walker.SetMask(mask)
	set := p.list.Put(&walker.Data{Bytes: binary.NativeEndian.AppendUint64(nil, mask)})
	p.add(walker.Must, p.call("rt_sigprocmask", "", "rt_sigprocmask(SIG_SETMASK, %#x, NULL)", mask),
		unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, set, 0, unsafe.Sizeof(mask))
	return nil
}

// execute tries the places where the program may be, as execvp(3) does.
func (p *plan) execute(_ context.Context, cfg Config) error {
	argv, err := p.list.Texts(cfg.Args)
	if err != nil {
		return err
	}
	env, err := p.list.Texts(cfg.Env)
	if err != nil {
		return err
	}
	p.first = len(p.calls)
	list := cfg.Places
	if list == nil {
		list = places(cfg.Path, cfg.Env)
	}
	for _, path := range list {
		name, err := p.list.Text(path)
		if err != nil {
			return err
		}
		p.add(walker.Attempts, p.call("execve", cfg.Path, "execve(%q, [%s])", path, brief(cfg.Args)), unix.SYS_EXECVE, name, argv, env)
	}
	return nil
}

// brief shows arguments as strace does: of a long one only the first 32 bytes.
func brief(args []string) string {
	var list []string
	for _, a := range args {
		more := ""
		if len(a) > 32 {
			a, more = a[:32], "..."
		}
		list = append(list, strconv.Quote(a)+more)
	}
	return strings.Join(list, ", ")
}

// defaultPath is where a program is searched if the environment does not say.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// places lists where to look for a program. They are looked at inside, so they can't be tried before.
func places(program string, env []string) []string {
	if strings.Contains(program, "/") || program == "" {
		return []string{program}
	}
	search := defaultPath
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			search = value
		}
	}
	var list []string
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "." // as execvp(3) has it
		}
		list = append(list, dir+"/"+program)
	}
	return list
}
