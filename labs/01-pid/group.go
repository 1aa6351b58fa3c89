package pid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/trace"
)

// The step about cgroup namespaces. Control groups themselves are lab 03; here one is only a folder to be in.

// cgroup: the group that the process is in becomes the root of all it can see.
func cgroup(t *course.T) error {
	dir, line, err := ownGroup()
	if err != nil {
		return err
	}
	if dir != "" {
		dir = filepath.Join(dir, t.Name())
		err := t.Make("cgroup", []string{dir}, func() error {
			return trace.Call(t.Context(), 0,
				func() string { return fmt.Sprintf("mkdir(%q)", dir) },
				func() error { return os.Mkdir(dir, 0o755) })
		})
		if err != nil {
			return err
		}
	}
	box, err := NewBox(t.Untraced(), t, Config{})
	if err != nil {
		return err
	}
	if dir != "" {
		file, pid := filepath.Join(dir, "cgroup.procs"), strconv.Itoa(box.Pid())
		err := trace.Call(t.Context(), 0,
			func() string { return fmt.Sprintf("write %s → %s", pid, file) },
			func() error { return os.WriteFile(file, []byte(pid), 0) })
		if err != nil {
			return err
		}
	}
	// Only now: a cgroup namespace takes the group that its maker is in *at that moment* for its root.
	table, err := box.Call(t.Context(), "01-unshare-cgroup")
	if err != nil {
		return err
	}
	outside, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", box.Pid()))
	if err != nil {
		return err
	}
	seenInside, seenOutside := groupLine(table, line), groupLine(string(outside), line)
	t.See("/proc/self/cgroup in the box: %s", seenInside)
	t.See("/proc/%s/cgroup on the host: %s", strconv.Itoa(box.Pid()), seenOutside)
	t.Equal(line+":/", seenInside, "inside, its group is the root of the tree")
	switch {
	case dir != "":
		t.Check(strings.HasSuffix(seenOutside, "/"+t.Name()), "…/"+t.Name(), seenOutside, "the host sees where it really is")
	case seenOutside == seenInside:
		t.See("no group can be made here without more rights, so the two paths happen to be the same")
	default:
		t.Check(seenInside != seenOutside, "a longer path than "+seenInside, seenOutside, "the host sees where it really is")
	}
	return twoSides(t, box, "cgroup")
}

// ownGroup finds a hierarchy to show: best one in which we can make a group below our own, whose folder it returns; else
// any, with an empty folder. line is the start of its line in /proc/self/cgroup: "0:" for cgroup v2.
func ownGroup() (dir, line string, err error) {
	table, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", "", err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return "", "", err
	}
	for l := range strings.Lines(string(table)) {
		f := strings.SplitN(strings.TrimSpace(l), ":", 3) // number, controllers, path: cgroups(7)
		if len(f) < 3 {
			continue
		}
		if line == "" || f[2] != "/" {
			line = f[0] + ":" + f[1]
		}
		for _, m := range mounts {
			v2 := m.FSType == "cgroup2" && f[1] == ""
			v1 := m.FSType == "cgroup" && f[1] != "" && !strings.HasPrefix(f[1], "cpuset") && hasOption(m.VFSOptions, f[1])
			below, err := filepath.Rel(m.Root, f[2])
			if !v1 && !v2 || err != nil || strings.HasPrefix(below, "..") {
				continue
			}
			if path := filepath.Join(m.Mountpoint, below); unix.Access(path, unix.W_OK) == nil {
				return path, f[0] + ":" + f[1], nil
			}
		}
	}
	return "", line, nil
}

// hasOption says whether a v1 hierarchy's mount options name the controllers "cpu,cpuacct" (in any order).
func hasOption(options, controllers string) bool {
	all := "," + options + ","
	for c := range strings.SplitSeq(controllers, ",") {
		if !strings.Contains(all, ","+c+",") {
			return false
		}
	}
	return true
}

func groupLine(table, start string) string {
	for l := range strings.Lines(table) {
		if strings.HasPrefix(l, start+":") {
			return strings.TrimSpace(l)
		}
	}
	return ""
}

// removeGroup removes the step's group, once the process in it is gone: the kernel frees a group a moment after the last
// process in it has died, and says EBUSY until then.
func removeGroup(ctx context.Context, dir string) error {
	if !strings.HasPrefix(filepath.Base(dir), "nslab-01-") {
		return fmt.Errorf("remove control group %s: not made by this lab", dir)
	}
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return fmt.Errorf("remove control group %s: %w", dir, err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
