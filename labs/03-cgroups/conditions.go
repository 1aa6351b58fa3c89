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

	"github.com/nslab/nslab/diagnosis"
)

// Conditions probes what the kernel wants for this step, by its answer.
func (e *Error) Conditions() []diagnosis.Condition {
	dir := filepath.Dir(e.File) // the group, where a file of it is meant
	is := func(errno unix.Errno) bool { return errors.Is(e.Err, errno) }
	switch {
	case is(unix.EACCES), is(unix.EPERM), is(unix.EROFS):
		target := e.File
		if e.Op == "mkdir" {
			target = dir
		}
		return []diagnosis.Condition{canWrite(target), readWrite(dir)}
	case is(unix.ENOENT):
		return e.absent(dir)
	case is(unix.EINVAL), is(unix.ERANGE):
		return e.invalid(dir)
	case is(unix.EBUSY):
		return e.busy(dir)
	case is(unix.ENOSPC):
		return []diagnosis.Condition{filled(dir, "cpuset.cpus"), filled(dir, "cpuset.mems")}
	case is(unix.ESRCH):
		return []diagnosis.Condition{{
			What: "the process exists", Detail: "/proc/" + e.Value, OK: exists("/proc/" + e.Value),
			Remedy: "it has ended, or its number is one of another PID namespace",
		}}
	case is(unix.ENODEV):
		return []diagnosis.Condition{wholeDisk(e.Value)}
	case is(unix.EOPNOTSUPP):
		kind, _ := readFile(filepath.Join(dir, "cgroup.type")) // unreadable: shown as empty
		return []diagnosis.Condition{{
			What: "the group is a domain, not a threaded one", Detail: "cgroup.type = " + kind, OK: kind == "domain",
			Remedy: "use a group outside of the threaded subtree",
		}}
	}
	return nil
}

// absent: a file that is not there belongs to a controller that the group does not have, or to a newer kernel.
func (e *Error) absent(dir string) []diagnosis.Condition {
	all := []diagnosis.Condition{{
		What: "the folder exists", Detail: dir, OK: exists(dir), Remedy: "make the group first",
	}}
	name := filepath.Base(e.File)
	controller, _, _ := strings.Cut(name, ".")
	if fsVersion(dir) != 2 || controller == "cgroup" {
		return append(all, diagnosis.Condition{
			What: "the kernel has put this file there", Detail: name, OK: exists(e.File),
			Remedy: "boot a newer kernel, or one that was built with it",
		})
	}
	parent := filepath.Join(filepath.Dir(dir), subtreeControl)
	on, _ := readFile(parent)
	return append(all, diagnosis.Condition{
		What: "the parent has switched the controller on", Detail: parent + " = " + on,
		OK:     slices.Contains(strings.Fields(on), controller),
		Remedy: "write the controller's name with a + before it to the parent's cgroup.subtree_control",
	})
}

// ranges is what the kernel takes, by file; see Documentation/scheduler/sched-bwc.rst and cgroup-v2.rst.
func ranges() map[string]struct{ low, high int64 } {
	return map[string]struct{ low, high int64 }{
		"cpu.cfs_quota_us":  {1000, 1 << 44},
		"cpu.cfs_period_us": {1000, 1_000_000},
		"cpu.max":           {1000, 1 << 44},
		"cpu.shares":        {2, 262144},
		"cpu.weight":        {1, 10000},
		"cpu.idle":          {0, 1},
		"pids.max":          {0, 1 << 22},
		"blkio.bfq.weight":  {1, 1000},
		"io.bfq.weight":     {1, 1000},
		"memory.swappiness": {0, 200},
	}
}

// relations names the files whose values the kernel checks against each other.
func relations() map[string]relation {
	return map[string]relation{
		"memory.limit_in_bytes": {
			file: "memory.memsw.limit_in_bytes",
			What: "memory alone is not allowed more than memory and swap together", Remedy: "raise memory.memsw.limit_in_bytes first",
			ok: func(a, b int64) bool { return a <= b },
		},
		"memory.memsw.limit_in_bytes": {
			file: "memory.limit_in_bytes",
			What: "memory and swap together are not allowed less than memory alone", Remedy: "lower memory.limit_in_bytes first",
			ok: func(a, b int64) bool { return a >= b },
		},
		"cpu.cfs_burst_us": {
			file: "cpu.cfs_quota_us", What: "a burst is at most one quota", Remedy: "set the quota first",
			ok: func(a, b int64) bool { return a <= b },
		},
		"cpu.max.burst": {
			file: "cpu.max", What: "a burst is at most one quota", Remedy: "set the quota first",
			ok: func(a, b int64) bool { return a <= b },
		},
		"cpu.shares": {
			file: "cpu.idle", What: "the group is not idle, which is a weight of its own", Remedy: "write 0 to cpu.idle first",
			ok: func(_, b int64) bool { return b == 0 },
		},
		"cpu.weight": {
			file: "cpu.idle", What: "the group is not idle, which is a weight of its own", Remedy: "write 0 to cpu.idle first",
			ok: func(_, b int64) bool { return b == 0 },
		},
	}
}

type relation struct {
	file         string
	What, Remedy string
	ok           func(mine, other int64) bool
}

func (e *Error) invalid(dir string) []diagnosis.Condition {
	name := filepath.Base(e.File)
	var all []diagnosis.Condition
	if r, ok := ranges()[name]; ok {
		n := number(e.Value)
		all = append(all, diagnosis.Condition{
			What:   "the value is one that the kernel takes",
			Detail: fmt.Sprintf("%s: %d … %d, is %s", name, r.low, r.high, e.Value),
			OK:     n == Unlimited || n >= r.low && n <= r.high,
			Remedy: "choose a value in this range; -1 (v1) or max (v2) lifts a limit",
		})
	}
	if r, ok := relations()[name]; ok { // read live, since it is the two together that must make sense
		if value, err := readFile(filepath.Join(dir, r.file)); err == nil {
			a, b := number(e.Value), number(value)
			all = append(all, diagnosis.Condition{
				What: r.What, Detail: r.file + " = " + value, OK: a == Unlimited || b == Unlimited || r.ok(a, b), Remedy: r.Remedy,
			})
		}
	}
	// A parent's limit is the children's too: v1 refuses a child that is promised more than its parent has.
	above := filepath.Join(filepath.Dir(dir), name)
	within := func(value string) bool { return subset(e.Value, value) }
	switch {
	case name == "cpu.cfs_quota_us":
		within = func(value string) bool {
			mine, theirs := number(e.Value), number(value)
			return theirs == Unlimited || mine != Unlimited && mine <= theirs
		}
	case !strings.HasPrefix(name, "cpuset."):
		return all
	}
	if value, err := readFile(above); err == nil {
		all = append(all, diagnosis.Condition{
			What: "it is within what the parent group has", Detail: above + " = " + value, OK: within(value),
			Remedy: "stay within the parent's value, or raise that one first",
		})
	}
	return all
}

func (e *Error) busy(dir string) []diagnosis.Condition {
	name := filepath.Base(e.File)
	members := func(group string) (string, bool) {
		pids, _ := pidsIn(group) // unreadable: shown as none
		return strings.Trim(fmt.Sprint(pids), "[]"), len(pids) == 0
	}
	switch {
	case e.Op == "rmdir":
		pids, none := members(e.File)
		children := childGroups(e.File)
		return []diagnosis.Condition{
			{
				What: "no process is in the group", Detail: pids, OK: none,
				Remedy: "kill the processes, or move them to another group, first",
			},
			{
				What: "it has no child groups", Detail: strings.Join(children, " "), OK: len(children) == 0,
				Remedy: "remove the children first",
			},
		}
	case name == subtreeControl:
		pids, none := members(dir)
		return []diagnosis.Condition{{
			What: "no process is in a group that hands controllers down", Detail: pids, OK: none,
			Remedy: "move the processes into a child group first",
		}}
	case name == procsFile:
		on, _ := readFile(filepath.Join(dir, subtreeControl))
		return []diagnosis.Condition{{
			What: "a group that processes join hands no controllers down", Detail: subtreeControl + " = " + on, OK: on == "",
			Remedy: "join a child group of it",
		}}
	case strings.HasPrefix(name, "cpuset."):
		pids, none := members(dir)
		return []diagnosis.Condition{{
			What: "no process needs the CPUs or memory nodes that are taken away", Detail: pids, OK: none,
			Remedy: "kill the processes, or move them to another group, first",
		}}
	case strings.HasPrefix(name, "memory."):
		used, _ := readFile(filepath.Join(dir, "memory.usage_in_bytes"))
		return []diagnosis.Condition{{
			What: "the group uses less than the new limit", Detail: "memory.usage_in_bytes = " + used,
			OK: number(used) < number(e.Value), Remedy: "free memory first, or choose a higher limit",
		}}
	}
	return nil
}

func childGroups(dir string) (names []string) {
	entries, _ := os.ReadDir(dir) // gone: none
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}

func canWrite(path string) diagnosis.Condition {
	c := diagnosis.Condition{
		What: "we may write there", Detail: path, OK: writable(path),
		Remedy: "run as root; on v2 as a user: systemd-run --user --scope -p Delegate=yes nslab …",
	}
	if info, err := os.Stat(path); err == nil {
		c.Detail = fmt.Sprintf("%s: %s, uid %d", path, info.Mode(), os.Geteuid())
	}
	return c
}

func readWrite(dir string) diagnosis.Condition {
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	return diagnosis.Condition{
		What: "the cgroup file system is mounted read-write", Detail: dir, OK: err == nil && fs.Flags&unix.ST_RDONLY == 0,
		Remedy: "in a container: start that one with --privileged, or with a writable /sys/fs/cgroup",
	}
}

func filled(dir, file string) diagnosis.Condition {
	value, err := readFile(filepath.Join(dir, file))
	return diagnosis.Condition{
		What: "the group has CPUs and memory nodes", Detail: file + " = " + value, OK: err == nil && value != "",
		Remedy: "copy the parent's value into this file first",
	}
}

// wholeDisk probes the device at the start of a line of io.max.
func wholeDisk(value string) diagnosis.Condition {
	device, _, _ := strings.Cut(value, " ")
	sys := "/sys/dev/block/" + device
	return diagnosis.Condition{
		What: "the device is a whole disk, not a partition", Detail: device, OK: exists(sys) && !exists(sys+"/partition"),
		Remedy: "use the numbers of the disk, as lsblk shows them",
	}
}

// number reads the first number of a value; "max", and what is none, is Unlimited.
func number(value string) int64 {
	word, _, _ := strings.Cut(value, " ")
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return Unlimited
	}
	return n
}
