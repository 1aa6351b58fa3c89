package container

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
)

// whoAndHere finds out who the program is to run as, and makes sure of its working folder. It is the last look at the tree
// from outside: files of the image are read by us, not by any library or module of the image.
func (i *initProcess) whoAndHere(ctx context.Context) (err error) {
	p := i.Config.Spec.Process
	if i.Config.User != "" || len(i.Config.Groups) > 0 {
		i.id, err = lookUp(ctx, i.tree, i.Config.User, i.Config.Groups)
	} else {
		i.id, err = identityOf(ctx, i.tree, p.User)
	}
	if err != nil {
		return err
	}
	dir, err := i.tree.MkdirAll(ctx, p.Cwd, 0o755)
	if err != nil {
		return &kindError{KindCwd, fmt.Errorf("working folder %s: %w", p.Cwd, err)}
	}
	return dir.Close()
}

// become is the last part: it waits for the order to start, gives up all rights that the program is not to have, and
// executes it. This process is then what it was told to run; nothing of nslab is left in it.
func (i *initProcess) become(ctx context.Context) error {
	if err := i.takeTerminal(ctx); err != nil {
		return err
	}
	for fd := range 3 {
		if err := giveAway(fd, i.id.uid); err != nil {
			return err
		}
	}
	if err := i.ready(); err != nil {
		return err
	}
	// Until now this process died with its maker, whatever killed that. From here on the container stands alone.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("12-container: outlive the maker: %w", err)
	}
	if h := i.Config.Spec.Hooks; h != nil {
		if err := runHooks(ctx, h.StartContainer, i.state()); err != nil {
			return err
		}
	}
	if err := i.enterCwd(ctx); err != nil {
		return err
	}
	if err := i.dropRights(ctx); err != nil {
		return err
	}
	if i.Config.Die { // again, and not only left as it was: a change of the user has reset it
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return fmt.Errorf("12-container: die with the maker: %w", err)
		}
	}
	return i.execute(ctx)
}

// ready tells the parent that all is arranged, and hands it the terminal. Then it waits.
func (i *initProcess) ready() error {
	var files []*os.File
	if i.console != nil {
		files = append(files, i.console)
	}
	if err := i.link.send(message{Ready: true}, files...); err != nil {
		return err
	}
	if i.console != nil {
		if err := i.console.Close(); err != nil {
			return err
		}
	}
	var start order
	return i.link.decode(&start)
}

// enterCwd goes to the working folder while the rights to do so are there, and checks where that is. A name like
// /proc/self/fd/7 leads to wherever descriptor 7 is open (CVE-2024-21626); getcwd(2) tells of a folder that is not below
// the root by an answer that does not begin with "/".
func (i *initProcess) enterCwd(ctx context.Context) error {
	cwd := i.Config.Spec.Process.Cwd
	err := trace.Call(ctx, 0, func() string { return fmt.Sprintf("chdir(%q)", cwd) }, func() error { return unix.Chdir(cwd) })
	if err != nil {
		return &kindError{KindCwd, fmt.Errorf("12-container: chdir to %s: %w", cwd, err)}
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	if err != nil || n == 0 || buf[0] != '/' {
		return &kindError{KindCwd, errors.Join(fmt.Errorf("12-container: working folder %s lies outside of the root", cwd), err)}
	}
	return nil
}

// dropRights gives away what the program must not have. Each step takes rights that a later one takes away:
//
//   - the bounding set needs CAP_SETPCAP; a filter without no_new_privs needs CAP_SYS_ADMIN
//   - groups before the user, since a change of the user drops the right to change groups
//   - the user before the capabilities: the kernel clears them when 0 becomes another, unless it is told to keep them
//   - no_new_privs and its filter at the very end: the fewer calls come after a filter, the more it may forbid
func (i *initProcess) dropRights(ctx context.Context) error {
	p := i.Config.Spec.Process
	if p.Capabilities != nil {
		if err := security.DropBounding(ctx, p.Capabilities.Bounding); err != nil {
			return err
		}
	}
	if i.Config.Filter != nil && !p.NoNewPrivileges {
		if err := i.Config.Filter.Load(ctx); err != nil {
			return err
		}
	}
	if err := security.KeepCapabilities(ctx, true); err != nil {
		return err
	}
	if err := i.setIDs(ctx); err != nil {
		return err
	}
	if err := security.KeepCapabilities(ctx, false); err != nil {
		return err
	}
	if p.Capabilities != nil {
		if err := security.SetCapabilities(ctx, i.id.capabilities(p.Capabilities)); err != nil {
			return err
		}
	}
	if p.NoNewPrivileges {
		if err := security.NoNewPrivileges(ctx); err != nil {
			return err
		}
		if i.Config.Filter != nil {
			return i.Config.Filter.Load(ctx)
		}
	}
	return nil
}

// giveAway makes the program's user the owner of one of its pipes: who is not could not open his own /dev/stdout. What is the
// host's, such as /dev/null, stays as it is.
func giveAway(fd int, uid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("12-container: look at descriptor %d: %w", fd, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || st.Uid == uid {
		return nil
	}
	err := unix.Fchown(fd, int(uid), -1)
	if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) { // a user that is not mapped owns nothing
		return fmt.Errorf("12-container: give descriptor %d to user %d: %w", fd, uid, err)
	}
	return nil
}

// setIDs calls the kernel by itself: the functions of Go's library change all threads, and this is about one.
func (i *initProcess) setIDs(ctx context.Context) error {
	id := i.id
	var first unsafe.Pointer
	if len(id.groups) > 0 {
		first = unsafe.Pointer(&id.groups[0])
	}
	for _, c := range []struct {
		text string
		call func() unix.Errno
	}{
		{fmt.Sprintf("setgroups(%d, %v)", len(id.groups), id.groups), func() unix.Errno {
			_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(id.groups)), uintptr(first), 0)
			if errno == unix.EPERM && !id.asked && setgroupsDenied("self") {
				return 0 // those of the image's files he cannot have, and all others he has not
			}
			return errno
		}},
		{fmt.Sprintf("setresgid(%[1]d, %[1]d, %[1]d)", id.gid), func() unix.Errno {
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(id.gid), uintptr(id.gid), uintptr(id.gid))
			return errno
		}},
		{fmt.Sprintf("setresuid(%[1]d, %[1]d, %[1]d)", id.uid), func() unix.Errno {
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(id.uid), uintptr(id.uid), uintptr(id.uid))
			return errno
		}},
	} {
		err := trace.Call(ctx, 0, func() string { return c.text }, func() error {
			if errno := c.call(); errno != 0 {
				return errno
			}
			return nil
		})
		if err != nil {
			return &kindError{KindUser, fmt.Errorf("12-container: become user %d:%d: %s: %w", id.uid, id.gid, c.text, err)}
		}
	}
	return nil
}

// setgroupsDenied: in the user namespace of an ordinary user, whoever has made it, nobody may change groups. See
// user_namespaces(7).
func setgroupsDenied(process string) bool {
	data, err := os.ReadFile("/proc/" + process + "/setgroups")
	return err == nil && strings.TrimSpace(string(data)) == "deny"
}

// execute becomes the program.
func (i *initProcess) execute(ctx context.Context) error {
	p := i.Config.Spec.Process
	env := withHome(p.Env, i.id.home)
	umask := 0o022
	if p.User.Umask != nil {
		umask = int(*p.User.Umask)
	}
	unix.Umask(umask)
	if i.Config.TimerSlack != 0 {
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(i.Config.TimerSlack), 0, 0, 0); err != nil {
			return fmt.Errorf("12-container: set the timer slack: %w", err)
		}
	}
	// All our descriptors are O_CLOEXEC; who started us may have left others.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("12-container: close what was inherited: %w", err)
	}
	if i.Config.Init {
		return i.supervise(ctx, p.Args, env)
	}
	searched := !strings.Contains(p.Args[0], "/")
	var last error = unix.ENOENT
	for _, name := range places(p.Args[0], env) {
		err := trace.Call(ctx, 0,
			func() string { return fmt.Sprintf("execve(%q, %q)", name, p.Args) },
			func() error { return syscall.Exec(name, p.Args, env) })
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || searched && errors.Is(err, unix.ENAMETOOLONG) {
			continue
		}
		last = err
		if !errors.Is(err, unix.EACCES) { // execvp(3) goes on after that, too, and remembers it
			break
		}
		if isFolder(name) {
			last = fmt.Errorf("is a directory: %w", err)
		}
	}
	return programError(p.Args[0], last, searched)
}

func isFolder(name string) bool {
	var st unix.Stat_t
	return unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// places lists where a program may be, as execvp(3) looks for it, but for the working folder.
func places(program string, env []string) []string {
	if strings.Contains(program, "/") {
		return []string{program}
	}
	if program == "" {
		return nil
	}
	search := ""
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			search = value
		}
	}
	var list []string
	for dir := range strings.SplitSeq(search, ":") {
		if !path.IsAbs(dir) {
			continue // an empty one would be the working folder: whoever wants that can say so
		}
		list = append(list, path.Join(dir, program))
	}
	return list
}

// superviseEntry is nslab as PID 1 of a container that was asked for with --init.
const superviseEntry = "nslab-supervise"

// supervise executes nslab once more, to be PID 1 for the program's sake. A new execution, since up to here only this thread
// has given up its rights.
func (i *initProcess) supervise(ctx context.Context, args, env []string) error {
	program := ""
	var last error = unix.ENOENT
	for _, name := range places(args[0], env) {
		err := unix.Access(name, unix.X_OK)
		switch {
		case err == nil && isFolder(name):
			last = fmt.Errorf("is a directory: %w", unix.EACCES)
			continue
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
			continue
		case err != nil:
			last = err
			continue
		}
		program = name
		break
	}
	if program == "" {
		return programError(args[0], last, !strings.Contains(args[0], "/"))
	}
	argv := append([]string{superviseEntry, program}, args...)
	// The link stays open over this execve: the container has started when the program has, not when nslab has that is to
	// start it. Until it catches signals, Go's runtime would end PID 1 for each.
	if _, err := unix.FcntlInt(linkFD, unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("12-container: keep the link open: %w", err)
	}
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("execve(\"/proc/self/exe\", %q)", argv) },
		func() error { return syscall.Exec("/proc/self/exe", argv, env) })
	if errors.Is(err, unix.ENOENT) { // it is the loader that is not there
		return errors.New("12-container: nslab cannot be the init here, since it is linked dynamically: build it with CGO_ENABLED=0")
	}
	return fmt.Errorf("12-container: execute nslab as the init: %w", err)
}

// superviseMain runs as PID 1: os.Args are the entry, the program's path, and its arguments from the 0th on.
func superviseMain() {
	unix.CloseOnExec(linkFD)
	l := openLink(linkFD)
	os.WriteFile("/proc/self/comm", []byte("nslab-init"), 0) // for ps; no harm if refused
	started := false
	status, err := pid.Supervise(context.Background(), os.Args[1], os.Args[2:], func() { started = true; l.close() })
	if err != nil && !started {
		l.send(message{Error: AsInitError(programError(os.Args[2], err, false))})
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nslab-init:", err)
		status = 1
	}
	os.Exit(status)
}
