package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
)

// initEntry is the argv[0] of nslab as the init of a container, which Docker used to call dockerinit.
const initEntry = "nslab-init"

// init takes over a process that is to be an init, before the packages are initialised that it has nothing to do with (Go
// does that in the order of their paths).
func init() {
	switch os.Args[0] {
	case initEntry:
		// Namespaces, capabilities and seccomp filters belong to a thread. So everything is done on one, and that one
		// calls execve: the kernel ends all others, and what is left is what this thread has become.
		runtime.LockOSThread()
		initMain()
	case superviseEntry:
		superviseMain()
	}
}

// initProcess is the init before it becomes the user's program.
type initProcess struct {
	order
	link    *link
	tree    *rootfs.Tree // the root file system, before it is the root
	tty     *os.File     // the inner end of the container's terminal
	console *os.File     // the outer end, until the parent has it
	id      identity

	// Where a thread of the maker does the work of the init, see outside.go:
	proc     *os.File   // the procfs of its PID namespace
	root     *os.File   // "/", in the end
	program  []*os.File // the program's streams
	own      []*os.File // which of them were opened here
	warnings []string
}

// initMain ends in execve, or in an error that is told to the parent.
func initMain() {
	// Should its maker be dead already, the link is closed, too.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		os.Exit(1)
	}
	unix.CloseOnExec(linkFD)
	i := &initProcess{link: openLink(linkFD)}
	if err := i.link.decode(&i.order); err != nil || i.Config == nil {
		os.Exit(1) // whoever started us is gone
	}
	for to, f := range i.link.Files { // what comes beside the order is the program's
		if err := unix.Dup3(int(f.Fd()), to, 0); err != nil {
			os.Exit(1)
		}
		f.Close()
	}
	i.link.Files = nil
	ctx := context.Background()
	if i.Traced {
		ctx = trace.With(ctx, func(r trace.Record) { i.link.send(message{Record: &r}) })
	}
	err := i.arrange(ctx)
	if err == nil {
		err = i.become(ctx)
	}
	if !errors.Is(err, errGone) {
		i.link.send(message{Error: AsInitError(err)})
	}
	os.Exit(1)
}

// arrange makes the world that the program is going to see. The order is the kernel's:
//
//   - the control group first: what the rest costs is counted, and limited, there
//   - mounts made private before the first mount, or the host gets copies of all
//   - volumes and devices before the root is switched: afterwards no path leads to their sources
//   - settings below /proc before parts of it are hidden or made read-only
//   - the root after all that; what the kernel only sees from inside comes after it
func (i *initProcess) arrange(ctx context.Context) error {
	return inOrder(ctx,
		i.enterGroup, // 03
		i.session,    // 01
		i.layers,     // 02, 05
		i.hooks,
		i.mounts,      // 02, 04, 07
		i.furnish,     // 04
		i.replaceNull, // 10
		i.terminal,    //
		i.settings,    // 01
		i.itself,      // 01
		i.whoAndHere,  //
		i.hide,        // 10
		i.switchRoot,  // 04
		i.network,     // 09
	)
}

func inOrder(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// enterGroup moves this thread into the control group's v1 folders; in v2's it was born. Then the group can become the root
// of what a cgroup namespace shows: it is the group that the maker is in at this moment.
func (i *initProcess) enterGroup(ctx context.Context) error {
	if i.Group != nil {
		if err := i.Group.Enter(ctx); err != nil {
			return err
		}
	}
	if !i.NewCgroup {
		return nil
	}
	err := trace.Call(ctx, 0, func() string { return "unshare(CLONE_NEWCGROUP)" },
		func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) })
	if err != nil {
		return fmt.Errorf("12-container: make a cgroup namespace: %w", err)
	}
	return nil
}

// session leaves the terminal that nslab was started from: the container must not be able to type into it.
func (i *initProcess) session(ctx context.Context) error {
	err := trace.Call(ctx, 0, func() string { return "setsid()" }, func() error {
		_, err := unix.Setsid()
		return err
	})
	if err != nil {
		return fmt.Errorf("12-container: begin a session: %w", err)
	}
	// So are the keys of that session, passwords of network file systems for example: the kernel hands them on from process to
	// process, and no namespace keeps them apart. A kernel that has none says ENOSYS; where a filter says EPERM, nobody inside
	// can use any.
	err = trace.Call(ctx, 0, func() string { return "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)" }, func() error {
		_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
		return err
	})
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("12-container: begin a session keyring: %w", err)
	}
	unix.Umask(0) // while we make things; the program's own comes at the end
	return nil
}

// layers makes the root file system, a mount that only this mount namespace knows.
func (i *initProcess) layers(ctx context.Context) error {
	root := i.Config.Spec.Root.Path
	if err := i.propagation(ctx, root); err != nil {
		return err
	}
	for _, u := range i.Config.Unions {
		if _, err := unionfs.Mount(ctx, unionfs.Overlay, u.Layers, u.Target); err != nil {
			return err
		}
	}
	var err error
	switch i.Config.Driver {
	case "":
		err = rootfs.MountPoint(ctx, root)
	default:
		if i.Config.Driver == unionfs.AufsFUSE && i.link != nil {
			// Its server must not live inside: our parent starts it, and mounts in our namespace.
			err = i.ask(message{Union: true})
			break
		}
		_, err = unionfs.Mount(ctx, i.Config.Driver, i.Config.Layers, root)
	}
	if err != nil {
		return err
	}
	i.tree, err = rootfs.OpenTree(ctx, root)
	return err
}

// propagation decides whether mounts that the host makes later arrive here. None that we make may leave.
func (i *initProcess) propagation(ctx context.Context, root string) error {
	switch p := i.Config.Spec.Linux.RootfsPropagation; p {
	case "", "private", "rprivate":
		return mount.PrivateTree(ctx, "/")
	case "slave", "rslave":
		return mount.SlaveTree(ctx, "/")
	case "shared", "rshared":
		// All stays as it was inherited but for the mount that the new root goes on, or pivot_root refuses.
		table, err := mount.Current()
		if err != nil {
			return err
		}
		under := "/"
		for _, m := range table {
			if below := strings.TrimSuffix(m.Target, "/") + "/"; strings.HasPrefix(root+"/", below) && len(m.Target) > len(under) {
				under = m.Target
			}
		}
		return mount.Private(ctx, under)
	default:
		return fmt.Errorf("12-container: root propagation %q: %w", p, errors.ErrUnsupported)
	}
}

// ask tells the parent that it is its turn, and waits for its answer.
func (i *initProcess) ask(m message) error {
	if err := i.link.send(m); err != nil {
		return err
	}
	var o order
	return i.link.decode(&o)
}

func (i *initProcess) hooks(ctx context.Context) error {
	if !i.order.Hooks {
		return nil
	}
	if err := i.ask(message{Hooks: true}); err != nil {
		return err
	}
	return runHooks(ctx, i.Config.Spec.Hooks.CreateContainer, i.state())
}

// hide covers what the host's /proc and /sys give away, and locks what must not be written.
func (i *initProcess) hide(ctx context.Context) error {
	if err := security.ReadOnly(ctx, i.tree, i.Config.Spec.Linux.ReadonlyPaths); err != nil {
		return err
	}
	return security.Mask(ctx, i.tree, i.Config.Spec.Linux.MaskedPaths)
}

// switchRoot makes the tree "/", and the host's file system unreachable.
func (i *initProcess) switchRoot(ctx context.Context) error {
	way, err := rootfs.Enter(ctx, i.Config.Spec.Root.Path)
	if err != nil {
		return err
	}
	if way.Why != "" {
		i.warn("the root was changed by %s, since %s", way.Call, way.Why)
	}
	// The descriptor of the tree would be a way out of the old mount, were there any left that it leads to.
	if err := i.tree.Close(); err != nil {
		return err
	}
	if !i.Config.Spec.Root.Readonly {
		return nil
	}
	return mount.Remount(ctx, "/", unix.MS_RDONLY, 0)
}

// warn tells the parent of something that is not as asked for, but no reason to fail.
func (i *initProcess) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if i.link == nil {
		i.warnings = append(i.warnings, text)
		return
	}
	i.link.send(message{Warning: text})
}

// at opens a path of the tree, whatever links are on the way, and checks that it lies in a file system of a kind.
func (i *initProcess) at(ctx context.Context, name string, flags int, magic int64) (*os.File, error) {
	f, err := i.tree.Open(ctx, name, flags, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || int64(st.Type) != magic {
		return nil, errors.Join(fmt.Errorf("12-container: %s is not in the kernel's own file system", path.Clean(name)), err, f.Close())
	}
	return f, nil
}
