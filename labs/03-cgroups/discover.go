package cgroups

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// System is where the control groups of this machine are, as this process sees them.
type System struct {
	Hierarchies []Hierarchy
}

// Hierarchy is one tree of groups.
type Hierarchy struct {
	Version     int      // 1 or 2
	Controllers []string // by the kernel's names: v1's "blkio" is v2's "io"
	Mount       string   // where the tree is mounted
	Own         string   // the folder of the group we are in; "" where the mount does not show it
}

// Discover reads where each controller lives. It looks at three files, whatever the mode; on a machine with v2 mounted at
// the list of its controllers too.
func Discover() (*System, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, readError("/proc/self/mountinfo", err)
	}
	groups, err := readFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	s, err := parse(bytes.NewReader(mounts), groups, func(mount string) []string {
		list, _ := readFile(filepath.Join(mount, controllerFile)) // unreadable: it offers us nothing
		return strings.Fields(list)
	})
	if err != nil {
		return nil, fmt.Errorf("find the control groups: %w", err)
	}
	// The mount table may name a mount that another one covers. mkdir would work there, and do nothing.
	s.Hierarchies = slices.DeleteFunc(s.Hierarchies, func(h Hierarchy) bool { return fsVersion(h.Mount) != h.Version })
	return s, nil
}

// parse puts together what /proc/self/mountinfo and /proc/self/cgroup say: the first one knows where a hierarchy is
// mounted, the second which group in it is ours. controllers reads what the v2 hierarchy at a mount point offers.
func parse(mounts io.Reader, groups string, controllers func(mount string) []string) (*System, error) {
	table, err := mountinfo.GetMountsFromReader(mounts, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	s := &System{}
	for line := range strings.Lines(groups) {
		// "4:cpu,cpuacct:/system.slice" in v1, "0::/system.slice" in v2. The path may hold colons itself.
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(part) != 3 {
			return nil, fmt.Errorf("parse /proc/self/cgroup: %q", line)
		}
		list, own := part[1], part[2]
		if strings.HasPrefix(list, "name=") {
			continue // a v1 hierarchy without controllers: systemd's own bookkeeping
		}
		h := Hierarchy{Version: 2}
		if list != "" {
			h = Hierarchy{Version: 1, Controllers: strings.Split(list, ",")}
		}
		if !h.find(table, own) {
			continue // known to the kernel, mounted nowhere that we can see
		}
		if h.Version == 2 {
			h.Controllers = controllers(h.Mount)
		}
		s.Hierarchies = append(s.Hierarchies, h)
	}
	return s, nil
}

// find looks for the hierarchy in the mount table. It may be mounted more than once: a mount that shows our own group is
// better, a later one covers an earlier one.
func (h *Hierarchy) find(table []*mountinfo.Info, group string) bool {
	found := false
	for _, m := range table {
		if m.FSType == "cgroup" != (h.Version == 1) {
			continue
		}
		if h.Version == 1 && !slices.Contains(strings.Split(m.VFSOptions, ","), h.Controllers[0]) {
			continue
		}
		if own := below(m, group); !found || own != "" || h.Own == "" {
			h.Mount, h.Own, found = m.Mountpoint, own, true
		}
	}
	return found
}

// below is the folder of a group in a mount, "" if the mount does not show it.
//
// A mount may show only a part of the tree: m.Root is that part's path. Both paths are told relative to the reader's
// cgroup namespace, and what lies outside of it starts with "/..". So a container with a cgroup namespace reads "/" in
// both places; one without reads /docker/ID in both, and its own group is the mount point itself. See cgroup_namespaces(7).
func below(m *mountinfo.Info, group string) string {
	if strings.HasSuffix(group, " (deleted)") || strings.HasPrefix(group, "/..") || strings.HasPrefix(m.Root, "/..") {
		return "" // the names of the folders between are not told
	}
	rel, err := filepath.Rel(m.Root, group)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return ""
	}
	return filepath.Join(m.Mountpoint, rel)
}

// Mode is "v1", "v2", "hybrid" (both, as systemd calls it), or "none".
func (s *System) Mode() string {
	var v1, v2 bool
	for _, h := range s.Hierarchies {
		v1, v2 = v1 || h.Version == 1, v2 || h.Version == 2
	}
	switch {
	case v1 && v2:
		return "hybrid"
	case v1:
		return "v1"
	case v2:
		return "v2"
	}
	return "none"
}

// Core stands for what every v2 group can do without any controller: tell events, be frozen, be killed as a whole.
// Ask for it like for a controller; v1 does not have it.
const Core = "core"

// builtin tells of controllers of v1 that are no controllers in v2: every group there has them, nothing is switched on.
// cpu.stat counts time in each group, cgroup.freeze freezes, an eBPF program decides on devices.
func builtin(controller string) bool {
	switch controller {
	case Core, "cpuacct", "freezer", "devices":
		return true
	}
	return false
}

// Find returns the hierarchy that holds a controller, which is named as in v2 ("io"), or as in v1 where v2 has none.
func (s *System) Find(controller string) (Hierarchy, bool) {
	for _, version := range []int{1, 2} { // v1 first: "freezer" is a controller there, if it is mounted at all
		for _, h := range s.Hierarchies {
			if h.Version == version && h.has(controller) {
				return h, true
			}
		}
	}
	return Hierarchy{}, false
}

func (h *Hierarchy) has(controller string) bool {
	if h.Version == 2 {
		return builtin(controller) || slices.Contains(h.Controllers, controller)
	}
	return slices.Contains(h.Controllers, v1Name(controller))
}

// v1Name is what v1 calls a controller.
func v1Name(controller string) string {
	if controller == "io" {
		return "blkio"
	}
	return controller
}

// fsVersion tells what kind of cgroup file system a path is in: 1, 2, or 0 for none.
func fsVersion(path string) int {
	var fs unix.Statfs_t
	if _, err := ignoringEINTR(func() (int, error) { return 0, unix.Statfs(path, &fs) }); err != nil {
		return 0
	}
	return magicVersion(int64(fs.Type))
}

func magicVersion(magic int64) int {
	switch magic {
	case unix.CGROUP_SUPER_MAGIC:
		return 1
	case unix.CGROUP2_SUPER_MAGIC:
		return 2
	}
	return 0
}
