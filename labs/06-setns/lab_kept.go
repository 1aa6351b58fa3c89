package setns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// kept: a bind mount of its file keeps a namespace alive without any process.
func kept(t *course.T) error {
	dir, err := t.Dir()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "net")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	box, err := pid.NewBox(t.Untraced(), t, pid.Config{Namespaces: unix.CLONE_NEWNET})
	if err != nil {
		return err
	}
	name, number := inode(box.Pid(), "net"), mustInode(box.Pid(), "net")
	if err := mount.Bind(t.Context(), fmt.Sprintf("/proc/%d/ns/net", box.Pid()), file); err != nil {
		return err
	}
	t.Cleanup(func(ctx context.Context) error {
		if nsfsMounts(file) == "–" {
			return nil
		}
		return mount.Detach(ctx, file)
	})
	if err := box.Kill(t.Context()); err != nil {
		return err
	}
	members, err := evidence.Members("net", number)
	if err != nil {
		return err
	}
	t.See("processes in %s: %s; mounts of it: %s", name, fmt.Sprint(members), nsfsMounts(file))
	t.Equal("[]", fmt.Sprint(members), "no process is left in the namespace")

	f, _, err := OpenFile(t.Untraced(), file)
	if err != nil {
		return err
	}
	p, _, err := enter(essential(t), t, Config{Files: []*os.File{f}}, "echo")
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	t.See("/proc/%s/ns/net, of a program that entered through the file → %s", str(p.Pid), inode(p.Pid, "net"))
	t.Equal(name, inode(p.Pid, "net"), "it is in the namespace whose process has gone")
	if err := p.Kill(t.Untraced()); err != nil {
		return err
	}

	if err := mount.Unmount(t.Context(), file); err != nil {
		return err
	}
	again, _, err := OpenFile(t.Untraced(), file)
	if err == nil {
		again.Close()
	}
	if members, err2 := evidence.Members("net", number); err2 != nil {
		return err2
	} else {
		t.See("after the umount: processes in it: %s; mounts of it: %s", fmt.Sprint(members), nsfsMounts(file))
		t.Equal("[] –", fmt.Sprint(members)+" "+nsfsMounts(file), "nothing holds the namespace any more: the kernel has dissolved it")
	}
	t.See("entering through the file: %s", evidence.Answer(err))
	t.Check(errors.Is(err, ErrNoNamespace), ErrNoNamespace, evidence.Answer(err), "the file is an ordinary empty one again")
	return nil
}

// nsfsMounts shows what is mounted on a file: which namespace of which file system.
func nsfsMounts(file string) string {
	table, err := mount.Current()
	if err != nil {
		return err.Error()
	}
	var found []string
	for _, m := range table {
		if m.Target == file {
			found = append(found, m.FSType+" "+m.Root)
		}
	}
	return words(found)
}

// refused: what setns does not let through.
func refused(t *course.T) error {
	dir, err := t.Dir()
	if err != nil {
		return err
	}
	// Handed over as a file: a process of an inner user namespace may not even look at /proc/PID/ns of one outside.
	ours := filepath.Join(dir, "uts")
	if err := os.WriteFile(ours, nil, 0o600); err != nil {
		return err
	}
	if err := mount.Bind(t.Untraced(), "/proc/self/ns/uts", ours); err != nil {
		return err
	}
	t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, ours) })
	inner, err := pid.NewBox(t.Untraced(), t, pid.Config{
		Namespaces:  unix.CLONE_NEWUSER,
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Geteuid()), Size: 1}},
		GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Getegid()), Size: 1}},
	})
	if err != nil {
		return err
	}
	_, err = inner.Call(t.Context(), "06-setns", ours)
	t.See("root of a user namespace enters our UTS namespace: %s", evidence.Answer(err))
	t.Diagnose(err)
	t.Equal("EPERM", evidence.Answer(err), "who is root only inside has no rights over a namespace of the outside")

	var siblings [2]*pid.Box
	for i := range siblings {
		if siblings[i], err = pid.NewBox(t.Untraced(), t, pid.Config{Namespaces: unix.CLONE_NEWPID}); err != nil {
			return err
		}
	}
	_, err = siblings[0].Call(t.Context(), "06-setns", fmt.Sprintf("/proc/%d/ns/pid", siblings[1].Pid()))
	t.See("PID 1 of a PID namespace, with all rights, enters the one beside it: %s", evidence.Answer(err))
	t.Diagnose(err)
	t.Equal("EINVAL", evidence.Answer(err), "from a PID namespace one gets only into those below it")

	gone, err := pid.NewBox(t.Untraced(), t, pid.Config{})
	if err != nil {
		return err
	}
	if err := gone.Kill(t.Untraced()); err != nil {
		return err
	}
	target, err := Open(trace.Off(t.Context()), gone.Pid())
	if err == nil {
		target.Close()
	}
	t.See("a process that has ended: %s", strings.TrimPrefix(fmt.Sprint(err), "06-setns: "))
	t.Equal("ESRCH", evidence.Answer(err), "a number alone is nothing to hold on to")
	return nil
}
