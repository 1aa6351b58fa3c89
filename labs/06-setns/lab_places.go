package setns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	"github.com/nslab/nslab/trace"
)

// numbers asks a shell for its number, and for what the /proc that it sees calls it.
const numbers = `cd -P /proc/self && echo "$$ ${PWD#/proc/}"; cd /`

// wrongPs: the PID namespace without the mount namespace shows the wrong /proc.
func wrongPs(t *course.T) error {
	box, target, err := newContainer(t.Untraced(), t)
	if err != nil {
		return err
	}
	half, said, err := enter(essential(t), t, Config{Target: target, Namespaces: unix.CLONE_NEWPID}, numbers)
	if err != nil {
		return err
	}
	number, self, _ := strings.Cut(said, " ")
	seen, err := evidence.Pids(evidence.Inside(half.Pid, "/proc"))
	if err != nil {
		return err
	}
	t.See("PID namespace only: getpid() is %s, but /proc/self is %s, and /proc lists %s processes", number, self, str(len(seen)))
	t.Equal(inode(box.Pid(), "pid"), inode(half.Pid, "pid"), "it is in the container's PID namespace")
	t.Equal(half.Pid, self, "its /proc calls it by its number out here")
	t.Check(slices.Contains(seen, os.Getpid()), "nslab among them", fmt.Sprintf("%d processes", len(seen)), "and shows it the host's processes, which it cannot name")

	whole, said, err := enter(essential(t), t, Config{Target: target, Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS}, numbers)
	if err != nil {
		return err
	}
	number, self, _ = strings.Cut(said, " ")
	if seen, err = evidence.Pids(evidence.Inside(whole.Pid, "/proc")); err != nil {
		return err
	}
	t.See("with the mount namespace: getpid() is %s, /proc/self is %s, and /proc lists %s", number, self, fmt.Sprint(seen))
	t.Equal(number, self, "with both, /proc and getpid() agree")
	t.Check(!slices.Contains(seen, os.Getpid()) && len(seen) == 3, "3 processes", fmt.Sprint(seen), "and nobody but the container's is to be seen")
	return nil
}

// rootToo: a mount namespace brings its own root, which need not be the container's.
func rootToo(t *course.T) error {
	dir, err := t.Dir()
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	box, err := pid.NewBox(t.Untraced(), t, pid.Config{Namespaces: unix.CLONE_NEWNS})
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "06-chroot", root); err != nil {
		return err
	}
	target, err := hold(t.Untraced(), t, box.Pid())
	if err != nil {
		return err
	}
	context := trace.With(t.Untraced(), func(r trace.Record) {
		if strings.HasPrefix(r.Text, "setns") || strings.HasPrefix(r.Text, "fchdir") || strings.HasPrefix(r.Text, "chroot") {
			trace.Replay(t.Context(), r)
		}
	})
	without, _, err := enter(context, t, Config{Target: target, Namespaces: unix.CLONE_NEWNS}, "echo")
	if err != nil {
		return err
	}
	with, _, err := enter(context, t, Config{Target: target, Namespaces: unix.CLONE_NEWNS, Root: true}, "echo")
	if err != nil {
		return err
	}
	place := func(pid int) string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
		if err != nil {
			return err.Error()
		}
		return link
	}
	t.See("/proc/%s/root, the container's: %s", str(box.Pid()), place(box.Pid()))
	t.See("/proc/%s/root, with the mount namespace only: %s", str(without.Pid), place(without.Pid))
	t.See("/proc/%s/root, with its root as well: %s", str(with.Pid), place(with.Pid))
	t.Equal(inode(box.Pid(), "mnt"), inode(without.Pid, "mnt"), "both programs are in the container's mount namespace")
	t.Check(place(without.Pid) != place(box.Pid()), "another than "+place(box.Pid()), place(without.Pid), "but the one stands above the container's root")
	t.Equal(place(box.Pid()), place(with.Pid), "the other has the root that the container has")
	return nil
}

// workingFolder: the name of a folder inside leads out of the container.
func workingFolder(t *course.T) error {
	dir, err := t.Dir()
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	box, target, err := newContainer(t.Untraced(), t)
	if err != nil {
		return err
	}
	leak, err := box.Call(t.Context(), "06-hold-root") // any folder of the host that was open when the root was changed
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "06-chroot", root); err != nil {
		return err
	}
	var chdir string
	ctx := trace.With(t.Untraced(), func(r trace.Record) {
		switch {
		case strings.HasPrefix(r.Text, "chdir"):
			chdir = r.Err
			trace.Replay(t.Context(), r)
		case strings.HasPrefix(r.Text, "setns"), strings.HasPrefix(r.Text, "getcwd"):
			trace.Replay(t.Context(), r)
		}
	})
	const join = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	bad := "/proc/1/fd/" + leak
	_, _, err = enter(ctx, t, Config{Target: target, Namespaces: join, Root: true, Dir: bad}, "pwd")
	said := "ok"
	if err != nil {
		said = err.Error()
	}
	left, err2 := evidence.Members("pid", mustInode(box.Pid(), "pid"))
	if err2 != nil {
		return err2
	}
	t.See("working folder %s: %s", bad, said)
	t.See("in the container's PID namespace afterwards: %s", fmt.Sprint(left))
	t.Equal("", chdir, "chdir itself was allowed: the name led to the host's folder")
	t.Check(errors.Is(err, ErrOutside), ErrOutside, said, "the check has found that it lies outside of the root")
	t.Equal(fmt.Sprint([]int{box.Pid()}), fmt.Sprint(left), "and no program was started")

	p, _, err := enter(ctx, t, Config{Target: target, Namespaces: join, Root: true, Dir: "/proc"}, "echo")
	if err != nil {
		return err
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.Pid))
	if err != nil {
		return err
	}
	t.See("working folder /proc: /proc/%s/cwd → %s", str(p.Pid), link)
	t.Equal(filepath.Join(root, "proc"), link, "a folder of the container is accepted")
	return nil
}

// mustInode is the number of a namespace, 0 if there is none.
func mustInode(pid int, kind string) uint64 {
	n, err := evidence.Namespace(pid, kind)
	if err != nil {
		return 0
	}
	return n
}

// likeExec: all that `container exec` takes: control group, namespaces, root, working folder.
func likeExec(t *course.T) error {
	box, target, err := newContainer(t.Untraced(), t)
	if err != nil {
		return err
	}
	cfg := Config{Target: target, Namespaces: All, Root: true, Cwd: true}
	g, err := cgroups.NewGroup(t.Untraced(), t, t.Name(), "pids")
	grouped := err == nil
	if !grouped {
		t.See("no control group can be made here, so that part is left out: %s", err.Error())
	} else {
		if err := g.Add(t.Untraced(), box.Pid()); err != nil {
			return err
		}
		for _, d := range g.Dirs {
			cfg.Groups = append(cfg.Groups, d.Path)
		}
	}
	p, _, err := enter(t.Context(), t, cfg, "echo")
	if err != nil {
		return err
	}
	same, different := shared(box.Pid(), p.Pid)
	link := func(pid int, name string) string {
		s, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			return err.Error()
		}
		return s
	}
	t.See("in common with the container: %s; not in common: %s", words(same), words(different))
	t.See("root and working folder: %s and %s; the container's: %s and %s",
		link(p.Pid, "root"), link(p.Pid, "cwd"), link(box.Pid(), "root"), link(box.Pid(), "cwd"))
	t.Equal("–", words(different), "every namespace of the container is the program's")
	t.Equal(link(box.Pid(), "root")+" "+link(box.Pid(), "cwd"), link(p.Pid, "root")+" "+link(p.Pid, "cwd"), "root and working folder are the container's")
	if grouped {
		members, err := g.Pids()
		if err != nil {
			return err
		}
		t.See("members of the control group %s: %s", filepath.Base(g.Dirs[0].Path), fmt.Sprint(members))
		t.Check(slices.Contains(members, p.Pid) && slices.Contains(members, box.Pid()), fmt.Sprintf("%d and %d", box.Pid(), p.Pid),
			fmt.Sprint(members), "the program counts against the container's limits")
	}
	return nil
}
