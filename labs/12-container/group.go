package container

import (
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	cgroups "github.com/nslab/nslab/labs/03-cgroups"
)

// planGroup says which control group the container gets. Some controllers it gets whether it has limits or not: what can be
// frozen can be killed for certain, what is counted can be shown, and a limit may come later.
//
// An ordinary user, and root inside of another container, may often make no groups at all. A container without limits can do
// without one, and why says what stood in the way; one with limits is refused.
func planGroup(spec *specs.Spec) (g *cgroups.Group, s *cgroups.System, why error) {
	if spec.Linux.CgroupsPath == "" {
		return nil, nil, nil
	}
	s, err := cgroups.Discover()
	if err != nil {
		return nil, nil, err
	}
	needed := cgroups.Controllers(spec.Linux.Resources)
	all := needed
	for _, c := range []string{"cpu", "memory", "pids", "io", "freezer", "devices", "cpuset"} {
		if _, ok := s.Find(c); ok {
			all = append(all, c)
		}
	}
	for _, list := range [][]string{all, needed} {
		if len(list) == 0 {
			continue
		}
		if g, err = s.Plan(spec.Linux.CgroupsPath, list...); err == nil {
			if err = mayMake(g); err == nil {
				return g, s, nil
			}
		}
		why = err // the last one is about what is needed, and nothing else
	}
	return nil, s, &NoGroupError{Needed: len(needed) > 0, Err: why}
}

// mayMake says whether the group's folders can be made. A plan has asked for that on v2 only.
func mayMake(g *cgroups.Group) error {
	for _, d := range g.Dirs {
		parent := filepath.Dir(d.Path)
		for unix.Access(parent, unix.F_OK) == unix.ENOENT && parent != "/" {
			parent = filepath.Dir(parent)
		}
		if err := unix.Faccessat(unix.AT_FDCWD, parent, unix.W_OK, unix.AT_EACCESS); err != nil {
			return &cgroups.Error{Op: "make a group below", File: parent, Err: err}
		}
	}
	return nil
}

// NoGroupError is a control group that cannot be made here.
type NoGroupError struct {
	Needed bool // the container has limits, so it cannot do without
	Err    error
}

func (e *NoGroupError) Error() string { return e.Err.Error() }
func (e *NoGroupError) Unwrap() error { return e.Err }
