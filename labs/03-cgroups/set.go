package cgroups

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Set writes the limits of a runtime-spec into the group's files. What r does not mention stays as it is, so Set also
// changes a running group. The device list is not among them.
//
// A limit that this version of control groups, or this kernel, does not have is an error, never left out in silence.
func (g *Group) Set(ctx context.Context, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	s := &setter{ctx: ctx, group: g}
	if r.Memory != nil {
		s.memory(r.Memory)
	}
	if r.CPU != nil {
		s.cpu(r.CPU)
	}
	if r.Pids != nil {
		s.pids(r.Pids)
	}
	if r.BlockIO != nil {
		s.io(r.BlockIO)
	}
	s.others(r)
	s.unified(r.Unified) // last, as the runtime-spec wants it: it overrides the others
	return s.err
}

// Controllers lists what a group needs for these limits.
func Controllers(r *specs.LinuxResources) []string {
	if r == nil {
		return nil
	}
	var list []string
	need := func(yes bool, controller string) {
		if yes {
			list = append(list, controller)
		}
	}
	if c := r.CPU; c != nil {
		need(c.Shares != nil || c.Quota != nil || c.Burst != nil || c.Period != nil || c.RealtimeRuntime != nil ||
			c.RealtimePeriod != nil || c.Idle != nil, "cpu")
		need(c.Cpus != "" || c.Mems != "", "cpuset")
	}
	need(r.Memory != nil, "memory")
	need(r.Pids != nil, "pids")
	need(r.BlockIO != nil, "io")
	need(len(r.HugepageLimits) > 0, "hugetlb")
	need(len(r.Rdma) > 0, "rdma")
	need(r.Network != nil && r.Network.ClassID != nil, "net_cls")
	need(r.Network != nil && len(r.Network.Priorities) > 0, "net_prio")
	for key := range r.Unified {
		controller, _, _ := strings.Cut(key, ".")
		if controller == "cgroup" {
			controller = Core
		}
		need(true, controller)
	}
	return list
}

// setter writes one file after another until one is refused, so that the code that decides on values reads as a list.
type setter struct {
	ctx   context.Context
	group *Group
	err   error
	tie   *tie // set while files are written that depend on each other
}

// put writes a value. The line that called it is the one that decided the value, and the one that is shown.
func (s *setter) put(controller, file string, value any) {
	if s.err != nil || s.tie.has(file) {
		return
	}
	if s.group.dir(controller) == nil {
		s.err = &MissingError{Controller: controller}
		return
	}
	err := write(s.ctx, 1, s.group.File(controller, file), fmt.Sprint(value))
	if s.tie != nil && errors.Is(err, unix.EINVAL) {
		s.tie.refused = errors.Join(s.tie.refused, err)
		return
	}
	s.err = err
	s.tie.add(file)
}

// has says whether this kernel has one of the group's files.
func (s *setter) has(controller, file string) bool { return exists(s.group.File(controller, file)) }

// v2 says where the group's controller lives; false also where the group does not have it, which put then tells.
func (s *setter) v2(controller string) bool { return s.group.Version(controller) == 2 }

func (s *setter) unsupported(resource string, version int) {
	if s.err == nil {
		s.err = &UnsupportedError{Resource: resource, Version: version}
	}
}

// tie is a set of files whose values the kernel checks against each other at each write: memory against memory and swap
// together, quota against period and burst.
type tie struct {
	done    map[string]bool
	refused error
}

func (t *tie) has(file string) bool { return t != nil && t.done[file] }

func (t *tie) add(file string) {
	if t != nil {
		t.done[file] = true
	}
}

// tied makes the writes of f in an order that the kernel accepts. There always is one if the new values fit each other,
// but which one depends on the old: raising memory and swap needs swap first, lowering them memory first. Instead of
// knowing all these rules, write what is accepted, then again what was refused, as long as that gets any further.
func (s *setter) tied(f func()) {
	s.tie = &tie{done: map[string]bool{}}
	defer func() { s.tie = nil }()
	for done := -1; s.err == nil && len(s.tie.done) > done; {
		done = len(s.tie.done)
		s.tie.refused = nil
		f()
		if s.tie.refused == nil {
			return
		}
	}
	if s.err == nil {
		s.err = s.tie.refused
	}
}

// others writes the limits that are rarely used.
func (s *setter) others(r *specs.LinuxResources) {
	for _, h := range r.HugepageLimits {
		// The size becomes part of a file's name: "2MB".
		if h.Pagesize == "" || strings.Trim(h.Pagesize, "0123456789KMGB") != "" {
			s.fail(fmt.Errorf("set hugetlb limit: page size %q is not one like 2MB", h.Pagesize))
			return
		}
		suffix := "limit_in_bytes"
		if s.v2("hugetlb") {
			suffix = "max"
		}
		s.put("hugetlb", "hugetlb."+h.Pagesize+"."+suffix, h.Limit)
		// Pages that are reserved by mmap count on their own, and are killed for with SIGBUS where only the first limit
		// is set. Kernel 5.7 and later.
		if rsvd := "hugetlb." + h.Pagesize + ".rsvd." + suffix; s.err == nil && s.has("hugetlb", rsvd) {
			s.put("hugetlb", rsvd, h.Limit)
		}
	}
	for device, limit := range r.Rdma {
		line := device
		if limit.HcaHandles != nil {
			line += fmt.Sprintf(" hca_handle=%d", *limit.HcaHandles)
		}
		if limit.HcaObjects != nil {
			line += fmt.Sprintf(" hca_object=%d", *limit.HcaObjects)
		}
		s.put("rdma", "rdma.max", line)
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			s.put("net_cls", "net_cls.classid", *n.ClassID)
		}
		for _, p := range n.Priorities {
			s.put("net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
}

// unified writes v2 files by their own names. A name comes from the user: it must stay in the group's folder, and it must
// be a limit, not one of the files that move processes or build trees.
func (s *setter) unified(files map[string]string) {
	for _, file := range sortedKeys(files) {
		controller, _, ok := strings.Cut(file, ".")
		if !ok || filepath.Base(file) != file {
			s.fail(fmt.Errorf("set unified resource: %q is not the name of a file in a group", file))
			return
		}
		if controller == "cgroup" {
			if !strings.HasPrefix(file, "cgroup.max.") {
				s.fail(fmt.Errorf("set unified resource: %q is no limit", file))
				return
			}
			controller = Core
		}
		if s.group.dir(controller) != nil && !s.v2(controller) {
			s.unsupported("unified "+file, 1)
			return
		}
		for line := range strings.Lines(files[file]) { // each line is a command of its own
			s.put(controller, file, strings.TrimSuffix(line, "\n"))
		}
	}
}

func (s *setter) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}
