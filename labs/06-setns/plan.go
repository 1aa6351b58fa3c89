package setns

import (
	"context"
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
)

// Config says what a child of [Start] enters, and what it executes there.
type Config struct {
	Target     *Target    // the process to go to; nil where only Files are entered
	Namespaces uintptr    // CLONE_NEW*: which of its namespaces; those that are ours already are left alone
	Files      []*os.File // single namespaces, from [OpenFile]
	OneByOne   bool       // enter each by its own file even where the kernel could do all with one call

	Groups []string // folders of control groups to be in, one in each hierarchy
	Root   bool     // take the target's root folder, too: it need not be that of its mount namespace
	Cwd    bool     // and its working folder
	Dir    string   // a working folder by name, looked up inside

	// Who to be in the end. nil stays who we are; but who enters a user namespace becomes its root, where it has one:
	// before that one is nobody there.
	Credential *syscall.Credential

	Path      string     // the program; one without a slash is searched in the PATH of Env, inside
	Args, Env []string   // Args[0] is the program's own name
	Streams   []*os.File // becomes descriptor 0, 1, 2 …; nil is 0 to 2 of ours

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

// Call is a system call that a process can make which may not use the Go runtime: see child.go.
type Call struct {
	Trap uintptr
	Args [6]uintptr
	Op   string // its name: "prctl"
	What string // what it is about, for an error
	Text string // as strace would show it
	Keep any    // whatever Args points to
	May  bool   // it may be refused
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
	script *script
	calls  []planned
	open   []*os.File // what is held open until the child has ended its work
	keep   []any      // what the numbers in the steps point to
	forks  bool       // the program is a grandchild
	first  int        // the first of the steps that execute
}

// add writes down one more step. at is taken from the caller's line, which is where the arguments are chosen.
func (p *plan) add(kind uintptr, c planned, trap uintptr, args ...uintptr) {
	s := step{trap: trap, kind: kind}
	copy(s.args[:], args)
	ctx := trace.With(context.Background(), func(r trace.Record) { c.at = r.At })
	trace.Call(ctx, 1, func() string { return "" }, func() error { return nil })
	p.script.steps = append(p.script.steps, s)
	p.calls = append(p.calls, c)
}

// call is what most steps are to the parent.
func call(op, what, format string, args ...any) planned {
	return planned{op: op, what: what, text: fmt.Sprintf(format, args...)}
}

// text keeps a string for the child and returns its address.
func (p *plan) text(s string) (uintptr, error) {
	b, err := syscall.BytePtrFromString(s)
	if err != nil {
		return 0, fmt.Errorf("06-setns: %q: %w", s, err) // a NUL in it
	}
	p.keep = append(p.keep, b)
	return uintptr(unsafe.Pointer(b)), nil
}

// texts keeps a list of strings as execve(2) wants it, and returns its address.
func (p *plan) texts(list []string) (uintptr, error) {
	b, err := syscall.SlicePtrFromStrings(list)
	if err != nil {
		return 0, fmt.Errorf("06-setns: %w", err)
	}
	p.keep = append(p.keep, b)
	return uintptr(unsafe.Pointer(&b[0])), nil
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
	p.add(must, call("prctl", "", "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE)"), unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
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

// groups moves the child into control groups: writing 0 to cgroup.procs means the writer. See cgroups(7).
func (p *plan) groups(ctx context.Context, cfg Config) error {
	for _, dir := range cfg.Groups {
		name := filepath.Join(dir, "cgroup.procs")
		f, err := open(trace.Off(ctx), unix.AT_FDCWD, name, name, unix.O_WRONLY)
		if err != nil {
			return err
		}
		p.open = append(p.open, f)
		self, err := p.text("0")
		if err != nil {
			return err
		}
		p.add(must, call("write", name, `write(%s, "0", 1)`, shown(f)), unix.SYS_WRITE, f.Fd(), self, 1)
	}
	return nil
}

// folders takes over root and working folder of the target.
//
// A mount namespace brings a root of its own, that of its first mount: entering it has moved us there. The container may
// have called chroot(2) since, though, so its root is taken through the descriptor of /proc/PID/root, opened before.
func (p *plan) folders(ctx context.Context, cfg Config) error {
	if cfg.Root {
		root, err := cfg.Target.file(ctx, "root", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		p.open = append(p.open, root)
		dot, err := p.text(".")
		if err != nil {
			return err
		}
		p.add(must, call("fchdir", root.Name(), "fchdir(%s)", shown(root)), unix.SYS_FCHDIR, root.Fd())
		p.add(must, call("chroot", root.Name(), `chroot(".")`), unix.SYS_CHROOT, dot)
	}
	if cfg.Cwd {
		cwd, err := cfg.Target.file(ctx, "cwd", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		p.open = append(p.open, cwd)
		p.add(must, call("fchdir", cwd.Name(), "fchdir(%s)", shown(cwd)), unix.SYS_FCHDIR, cwd.Fd())
	}
	if cfg.Dir != "" {
		dir, err := p.text(cfg.Dir)
		if err != nil {
			return err
		}
		p.add(must, call("chdir", cfg.Dir, "chdir(%q)", cfg.Dir), unix.SYS_CHDIR, dir)
	}
	if cfg.Cwd || cfg.Dir != "" {
		// CVE-2024-21626: a name like /proc/self/fd/7 leads to wherever descriptor 7 is open, and until execve we have
		// descriptors of the host. The program would start with a working folder of the host, and "../../etc/shadow"
		// is the host's then. getcwd(2) tells: of a folder that is not below the root it says "(unreachable)/…".
		p.add(locates, call("getcwd", cfg.Dir, "getcwd()"), unix.SYS_GETCWD,
			uintptr(unsafe.Pointer(&p.script.cwd)), unsafe.Sizeof(p.script.cwd))
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
	var list uintptr
	if len(groups) > 0 {
		p.keep = append(p.keep, groups)
		list = uintptr(unsafe.Pointer(&groups[0]))
	}
	p.add(must, call("setgroups", fmt.Sprint(groups), "setgroups(%d, %v)", len(groups), groups), unix.SYS_SETGROUPS, uintptr(len(groups)), list)
}

func (p *plan) setIDs(op string, trap uintptr, id uint32) {
	p.add(must, call(op, fmt.Sprint(id), "%s(%[2]d, %[2]d, %[2]d)", op, id), trap, uintptr(id), uintptr(id), uintptr(id))
}

// streams puts the program's descriptors where it expects them, and sees to it that it gets no others.
func (p *plan) streams(_ context.Context, cfg Config) error {
	streams := cfg.Streams
	if streams == nil {
		streams = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	}
	for i, f := range streams {
		// A copy beyond all places that are to be filled: else filling one could close the source of the next.
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, len(streams))
		if err != nil {
			return &Error{Op: "fcntl", What: f.Name(), Err: err}
		}
		p.open = append(p.open, os.NewFile(uintptr(fd), f.Name()))
		p.add(must, call("dup3", f.Name(), "dup3(%d<%s>, %d, 0)", fd, f.Name(), i), unix.SYS_DUP3, uintptr(fd), uintptr(i), 0)
	}
	// All our descriptors are O_CLOEXEC; but who started us may have left others, and even ours are not for the eyes of the
	// processes in the PID namespace that comes next. So all are closed but the pipe to our maker, around which there are two
	// ranges. Kernels before 5.9 lack this call: there the parent has marked what was left for execve.
	pipe := p.script.pipe
	if pipe > uintptr(len(streams)) {
		p.add(optional, call("close_range", "", "close_range(%d, %d, 0)", len(streams), pipe-1),
			unix.SYS_CLOSE_RANGE, uintptr(len(streams)), pipe-1, 0)
	}
	p.add(optional, call("close_range", "", "close_range(%d, ~0U, 0)", pipe+1),
		unix.SYS_CLOSE_RANGE, pipe+1, math.MaxUint32, 0)
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
		p.keep = append(p.keep, c.Keep)
		kind := uintptr(must)
		switch {
		case c.Trap == unix.SYS_SECCOMP:
			kind = seals
		case c.May:
			kind = optional
		}
		p.add(kind, planned{op: c.Op, what: c.What, text: c.Text}, c.Trap, c.Args[:]...)
	}
}

// signals is what must come after all changes of identity, and makes the mask of signals what it was.
func (p *plan) signals(_ context.Context, cfg Config) error {
	if cfg.Pdeathsig != 0 {
		// The kernel forgets this at every fork and change of identity. Whether our maker died before it was set shows
		// when the steps up to here are reported: nobody reads.
		p.add(must, call("prctl", "", "prctl(PR_SET_PDEATHSIG, %s)", unix.SignalName(cfg.Pdeathsig)),
			unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(cfg.Pdeathsig))
	}
	mask := new(uint64)
	p.keep = append(p.keep, mask)
	setMask(nil, mask) // NULL changes nothing, and returns the present one
	p.add(must, call("rt_sigprocmask", "", "rt_sigprocmask(SIG_SETMASK, %#x, NULL)", *mask),
		unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(mask)), 0, sigsetSize)
	return nil
}

// execute tries the places where the program may be, as execvp(3) does.
func (p *plan) execute(_ context.Context, cfg Config) error {
	argv, err := p.texts(cfg.Args)
	if err != nil {
		return err
	}
	env, err := p.texts(cfg.Env)
	if err != nil {
		return err
	}
	p.first = len(p.calls)
	for _, path := range places(cfg.Path, cfg.Env) {
		name, err := p.text(path)
		if err != nil {
			return err
		}
		p.add(attempts, call("execve", cfg.Path, "execve(%q, [%s])", path, brief(cfg.Args)), unix.SYS_EXECVE, name, argv, env)
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
