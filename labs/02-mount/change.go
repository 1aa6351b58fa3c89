package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// readOnly: the call that looks right is ignored; it takes a second one.
func readOnly(t *course.T) error {
	dir, err := bench(t, "a", "one-call", "two-calls")
	if err != nil {
		return err
	}
	a, one, two := filepath.Join(dir, "a"), filepath.Join(dir, "one-call"), filepath.Join(dir, "two-calls")
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "02-bind-one-call", a, one); err != nil {
		return err
	}
	said, err := tryWrite(t, box, one)
	if err != nil {
		return err
	}
	t.Equal("ok", said, "after one call with MS_RDONLY the bind is still writable")
	if _, err := box.Call(t.Context(), "02-bind-read-only", a, two); err != nil {
		return err
	}
	if said, err = tryWrite(t, box, two); err != nil {
		return err
	}
	t.Equal("EROFS", said, "after the second call it is read-only")
	said = write(box.Pid(), filepath.Join(a, "file"))
	t.See("writing to a itself: %s", said)
	t.Equal("ok", said, "the folder it shows is still writable by its own path")
	return nil
}

// tryWrite shows the options of the mount on dir in the box, and what a write answers.
func tryWrite(t *course.T, box *pid.Box, dir string) (string, error) {
	m, err := mountedOn(box.Pid(), dir)
	if err != nil {
		return "", err
	}
	said := write(box.Pid(), filepath.Join(dir, "file"))
	t.See("%s is mounted %s; writing to it: %s", dir, m.Options, said)
	return said, nil
}

// restrictions are what a mount may have been given for safety, and a careless remount takes away.
var restrictions = []string{"nosuid", "nodev", "noexec"}

// flagsLost: a remount replaces the flags.
func flagsLost(t *course.T) error {
	place, err := bench(t, "careless", "careful")
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		disk, action string
		kept         []string
		check        string
	}{
		{
			disk: "careless", action: "02-remount-careless",
			check: "the careless remount has dropped nosuid, nodev and noexec",
		},
		{
			disk: "careful", action: "02-remount-read-only", kept: restrictions,
			check: "the remount that repeats them has kept them",
		},
	} {
		path := filepath.Join(place, c.disk)
		if _, err := box.Call(t.Untraced(), "02-restricted", path); err != nil {
			return err
		}
		before, err := mountedOn(box.Pid(), path)
		if err != nil {
			return err
		}
		if _, err := box.Call(t.Context(), c.action, path); err != nil {
			return err
		}
		after, err := mountedOn(box.Pid(), path)
		if err != nil {
			return err
		}
		t.See("%s: %s → %s", c.disk, before.Options, after.Options)
		t.Equal(fmt.Sprint(restrictions), fmt.Sprint(before.restrictions()), "the mount has its restrictions at first")
		t.Equal(fmt.Sprint(c.kept), fmt.Sprint(after.restrictions()), c.check)
		t.Check(after.Has("ro"), "ro", after.Options, "it is read-only now")
	}
	return nil
}

func (e Entry) restrictions() []string {
	return slices.DeleteFunc(slices.Clone(restrictions), func(r string) bool { return !e.Has(r) })
}

// refusals: two errnos, and what is behind them.
func refusals(t *course.T) error {
	place, err := bench(t, "plain", "disk")
	if err != nil {
		return err
	}
	err = Remount(t.Context(), filepath.Join(place, "plain"), unix.MS_RDONLY, 0)
	t.See("a plain folder, remounted: %s", evidence.Answer(err))
	broken := t.Diagnose(err)
	t.Equal("EINVAL", evidence.Answer(err), "the kernel says EINVAL")
	t.Equal("the target is a mount point", strings.Join(broken, ", "), "of the conditions one does not hold: it is no mount point")
	return locked(t, filepath.Join(place, "disk"))
}

// locked: in a user namespace, flags that were inherited may not be dropped.
func locked(t *course.T, path string) error {
	if err := disk(t.Untraced(), path, unix.MS_NOSUID|unix.MS_NODEV); err != nil {
		return err
	}
	box, err := pid.NewBox(t.Context(), t, pid.Config{
		Namespaces:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Geteuid()), Size: 1}},
		GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Getegid()), Size: 1}},
	})
	if err != nil {
		t.See("no user namespace can be made here, so the second half is left out: %s", err.Error())
		return nil
	}
	_, err = box.Call(t.Context(), "02-remount-careless", path)
	t.See("in a user namespace, the careless remount: %s", evidence.Answer(err))
	broken := t.Diagnose(err)
	t.Equal("EPERM", evidence.Answer(err), "there the kernel says EPERM")
	const keeps = "the remount keeps the flags that are locked in a user namespace"
	t.Check(slices.Contains(broken, keeps), keeps, strings.Join(broken, ", "), "the remount would have dropped locked flags")
	if _, err := box.Call(t.Context(), "02-remount-read-only", path); err != nil {
		return err
	}
	m, err := mountedOn(box.Pid(), path)
	if err != nil {
		return err
	}
	t.See("after the remount that repeats them: %s", m.Options)
	t.Check(m.Has("ro") && m.Has("nosuid") && m.Has("nodev"), "ro,nosuid,nodev", m.Options, "with them repeated it is allowed")
	return nil
}

// wholeTree: mount_setattr makes a tree read-only at once; a remount leaves what is mounted below.
func wholeTree(t *course.T) error {
	dir, err := bench(t, "a", "a/sub", "old", "new")
	if err != nil {
		return err
	}
	a, older, newer := filepath.Join(dir, "a"), filepath.Join(dir, "old"), filepath.Join(dir, "new")
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "02-disk", a+"/sub"); err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "02-bind-tree", a, older); err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "02-remount-read-only", older); err != nil {
		return err
	}
	top, below := write(box.Pid(), older+"/file"), write(box.Pid(), older+"/sub/file")
	t.See("old way: writing to the bind: %s; to the mount below it: %s", top, below)
	t.Equal("EROFS", top, "the old way makes the bind read-only")
	t.Equal("ok", below, "but not what is mounted below it")
	if err := NewAPI(t.Untraced()); err != nil {
		t.See("this kernel does not have the new calls: %s", evidence.Answer(err))
		return nil
	}
	if _, err := box.Call(t.Context(), "02-bind-tree-read-only", a, newer); err != nil {
		return err
	}
	top, below = write(box.Pid(), newer+"/file"), write(box.Pid(), newer+"/sub/file")
	t.See("new way: writing to the bind: %s; to the mount below it: %s", top, below)
	t.Equal("EROFS", top, "the new way makes the bind read-only")
	t.Equal("EROFS", below, "and all that is mounted below it")
	said := write(box.Pid(), a+"/sub/file")
	t.See("writing to a/sub itself: %s", said)
	t.Equal("ok", said, "the original is still writable")
	return nil
}
