package cgroups

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/diagnosis"
)

// Error is a step in a cgroup file system that the kernel refused.
type Error struct {
	Op    string // "write", "mkdir", "rmdir", "read"
	File  string // the file or folder
	Value string // what was written, if it was a write
	Err   error  // the errno
}

// Error reads "03-cgroups: write 20000 to …/cpu.cfs_quota_us: invalid argument".
func (e *Error) Error() string {
	if e.Op == "write" {
		return fmt.Sprintf("03-cgroups: write %s to %s: %v", e.Value, e.File, e.Err)
	}
	return fmt.Sprintf("03-cgroups: %s %s: %v", e.Op, e.File, e.Err)
}

// Unwrap lets errors.Is find the errno.
func (e *Error) Unwrap() error { return e.Err }

var (
	errHidden  = errors.New("the mount does not show the group we are in")
	errForeign = errors.New("not a group of nslab's")
)

// MissingError is a controller that no mounted hierarchy holds.
type MissingError struct{ Controller string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("03-cgroups: use controller %s: it is in no mounted hierarchy", e.Controller)
}

// Conditions probes where on its way from the kernel to a mount the controller got lost.
func (e *MissingError) Conditions() []diagnosis.Condition {
	line := kernelController(e.Controller)
	offered := ""
	if s, err := Discover(); err == nil {
		for _, h := range s.Hierarchies {
			offered = strings.TrimSpace(offered + " " + strings.Join(h.Controllers, " "))
		}
	}
	return []diagnosis.Condition{
		{
			What: "the kernel was built with the controller", Detail: strings.Join(line, " "), OK: len(line) > 0,
			Remedy: "boot a kernel that has it",
		},
		{
			What: "it was not disabled at boot", Detail: "/proc/cgroups", OK: len(line) == 0 || line[len(line)-1] == "1",
			Remedy: "remove cgroup_disable= from the kernel's command line; on a Raspberry Pi add cgroup_enable=memory",
		},
		{
			What: "a mounted hierarchy offers it", Detail: offered, OK: false,
			Remedy: "mount it (mount -t cgroup2 none /sys/fs/cgroup), or have the parent group switch it on",
		},
	}
}

// kernelController is the controller's line in /proc/cgroups: name, hierarchy, number of groups, enabled. See cgroups(7).
func kernelController(name string) []string {
	table, _ := readFile("/proc/cgroups") // unreadable counts as not there
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == v1Name(name) {
			return f
		}
	}
	return nil
}

// UnsupportedError is a limit that this version of control groups cannot express.
type UnsupportedError struct {
	Resource string // in the runtime-spec's words: "memory.swappiness"
	Version  int
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("03-cgroups: set %s: cgroup v%d has no such limit", e.Resource, e.Version)
}

// DelegationError says that on v2 there is no place for a group with these controllers.
type DelegationError struct {
	Own         string // the group we are in
	Controllers []string
}

func (e *DelegationError) Error() string {
	return fmt.Sprintf("03-cgroups: make a group with %s below %s: not delegated to us",
		strings.Join(e.Controllers, ", "), e.Own)
}

// Conditions probes what v2 demands of a place for a group, see place.
func (e *DelegationError) Conditions() []diagnosis.Condition {
	offered := machine.list(e.Own, controllerFile)
	missing := slices.ContainsFunc(e.Controllers, func(c string) bool { return !slices.Contains(offered, c) })
	return []diagnosis.Condition{
		canWrite(e.Own), canWrite(filepath.Join(e.Own, procsFile)),
		{
			What: "the group we are in is offered the controllers", Detail: strings.Join(offered, " "), OK: !missing,
			Remedy: "run as root, or have the administrator set Delegate=yes for user@.service",
		},
		{
			What:   "nobody but nslab is in our group, so that it can hand controllers down",
			Detail: strings.Join(machine.list(e.Own, procsFile), " "), OK: machine.oursAlone(e.Own),
			Remedy: "start nslab in a group of its own (systemd-run --user --scope -p Delegate=yes), or move the others out",
		},
	}
}
