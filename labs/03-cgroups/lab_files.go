package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
)

// The steps about where groups are and what they are.

// hierarchies: each tree, the controllers in it, and our own place.
func hierarchies(t *course.T) error {
	s, err := Discover()
	if err != nil {
		return err
	}
	t.See("mode: %s", s.Mode())
	slices.SortFunc(s.Hierarchies, func(a, b Hierarchy) int { return strings.Compare(a.Mount, b.Mount) })
	for _, h := range s.Hierarchies {
		controllers := strings.Join(h.Controllers, " ")
		if controllers == "" {
			controllers = "-"
		}
		t.See("v%s  %s  at %s", strconv.Itoa(h.Version), fmt.Sprintf("%-10s", controllers), h.Mount)
		if h.Own != h.Mount && h.Own != "" {
			t.See("    nslab is in %s", strings.TrimPrefix(h.Own, h.Mount))
		}
	}
	for _, h := range s.Hierarchies {
		if h.Own == "" {
			t.See("the mount at %s does not show the group that nslab is in", h.Mount)
			continue
		}
		pids, err := pidsIn(h.Own)
		if err != nil {
			return err
		}
		// Not what /proc/self/cgroup says, from which we know the place: what the place says.
		found := slices.Contains(pids, os.Getpid())
		t.Check(found, strconv.Itoa(os.Getpid())+" "+presence(true), presence(found),
			"%s lists nslab's own process", filepath.Join(h.Own, procsFile))
	}
	bothSpellings(t)
	return nil
}

// bothSpellings is a table of the files that this lab uses.
func bothSpellings(t *course.T) {
	t.See("             in v1                         in v2")
	t.See("members      cgroup.procs, tasks           cgroup.procs, cgroup.threads")
	t.See("CPU limit    cpu.cfs_quota_us, …period_us  cpu.max")
	t.See("CPU weight   cpu.shares                    cpu.weight")
	t.See("CPU used     cpuacct.usage, cpu.stat       cpu.stat")
	t.See("CPUs         cpuset.cpus                   cpuset.cpus")
	t.See("memory limit memory.limit_in_bytes         memory.max")
	t.See("memory used  memory.usage_in_bytes         memory.current")
	t.See("OOM kills    memory.oom_control            memory.events")
	t.See("tasks        pids.max                      pids.max")
	t.See("disk limit   blkio.throttle.*_device       io.max")
	t.See("freeze       freezer.state                 cgroup.freeze")
	t.See("kill all     freeze, kill each, thaw       cgroup.kill")
}

// makeFolder: mkdir makes a group, and the kernel fills it.
func makeFolder(t *course.T) error {
	s, err := Discover()
	if err != nil {
		return err
	}
	plan, err := s.Plan(t.Name(), "cpu")
	if err != nil {
		return err
	}
	before := exists(plan.Dir("cpu"))
	g, err := NewGroup(t.Context(), t, t.Name(), "cpu")
	if err != nil {
		return err
	}
	dir := g.Dir("cpu")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	t.Check(!before, presence(false), presence(before), "before mkdir the folder was not there")
	t.See("mkdir made one folder; in it the kernel made %s files:", strconv.Itoa(len(names)))
	t.See("%s", strings.Join(names, "  "))
	limit := map[int]string{1: "cpu.cfs_quota_us", 2: "cpu.max"}[g.Version("cpu")]
	t.Check(slices.Contains(names, limit), limit, fmt.Sprintf("%d files", len(names)), "among them the one that limits CPU time")
	pids, err := pidsIn(dir)
	if err != nil {
		return err
	}
	t.Equal(0, len(pids), "no process is in the new group")
	spelled(t, g, "cpu", "cpu.cfs_quota_us, cpu.cfs_period_us, cpu.shares, tasks", "cpu.max, cpu.weight, cgroup.threads")

	// The files are the kernel's: rm cannot delete one, so rm -r fails, while rmdir takes the folder, full as it is.
	err = unix.Unlink(filepath.Join(dir, limit))
	t.See("unlink %s: %s", limit, fmt.Sprint(err))
	t.Check(errors.Is(err, unix.EPERM), unix.EPERM.Error(), fmt.Sprint(err), "a file of a group cannot be deleted")
	if err := g.Delete(t.Context()); err != nil {
		return err
	}
	t.Check(!exists(dir), presence(false), presence(exists(dir)), "rmdir removes the group with all its files")
	return nil
}

// presence words whether a folder exists.
func presence(there bool) string {
	if there {
		return "there"
	}
	return "not there"
}
