package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// modes are the ways in which a machine can have its control groups. v2 also takes the controllers away from v1 on the
// kernel's command line, see boot.
var modes = []string{"v2", "v1", "hybrid"}

const cgroupRoot = "/sys/fs/cgroup"

// mountCgroups mounts them as systemd does in each of the modes, since that is what programs expect. A controller that the
// kernel keeps for v2 (newer ones may have memory and cpuset without their v1 files) is passed to note.
func mountCgroups(mode string, note func(string)) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if mode == "v2" {
		if err := (mountPoint{"cgroup2", cgroupRoot, "cgroup2", flags, "nsdelegate"}).mount(); err != nil {
			return err
		}
		return enableAll(cgroupRoot)
	}
	if err := (mountPoint{"tmpfs", cgroupRoot, "tmpfs", flags, "mode=755"}).mount(); err != nil {
		return err
	}
	table, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return err
	}
	for _, h := range hierarchies(string(table)) {
		dir := path.Join(cgroupRoot, strings.Join(h, ","))
		err := (mountPoint{"cgroup", dir, "cgroup", flags, strings.Join(h, ",")}).mount()
		if errors.Is(err, unix.EINVAL) {
			note("this kernel has no cgroup v1 for " + strings.Join(h, ", "))
			if err := os.Remove(dir); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if len(h) == 1 {
			continue
		}
		for _, controller := range h { // cpu → cpu,cpuacct
			if err := os.Symlink(path.Base(dir), path.Join(cgroupRoot, controller)); err != nil {
				return err
			}
		}
	}
	if err := (mountPoint{"cgroup", cgroupRoot + "/systemd", "cgroup", flags, "none,name=systemd"}).mount(); err != nil {
		return err
	}
	if mode == "hybrid" {
		if err := (mountPoint{"cgroup2", cgroupRoot + "/unified", "cgroup2", flags, "nsdelegate"}).mount(); err != nil {
			return err
		}
		return enableAll(cgroupRoot + "/unified") // what v1 did not take
	}
	return nil
}

// together are controllers that systemd mounts as one hierarchy.
var together = [][]string{{"cpu", "cpuacct"}, {"net_cls", "net_prio"}}

// hierarchies reads /proc/cgroups: name, hierarchy, number of groups, enabled. See cgroups(7).
func hierarchies(table string) (list [][]string) {
	var enabled []string
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) == 4 && !strings.HasPrefix(line, "#") && f[3] == "1" {
			enabled = append(enabled, f[0])
		}
	}
	done := map[string]bool{}
	for _, c := range enabled {
		if done[c] {
			continue
		}
		h := []string{c}
		for _, t := range together {
			if slices.Contains(t, c) {
				h = slices.DeleteFunc(slices.Clone(t), func(s string) bool { return !slices.Contains(enabled, s) })
			}
		}
		for _, s := range h {
			done[s] = true
		}
		list = append(list, h)
	}
	return list
}

// enableAll gives all controllers to the groups below, as systemd does for those that it is asked for.
func enableAll(dir string) error {
	text, err := os.ReadFile(path.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(text)) {
		if err := os.WriteFile(path.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enable %s: %w", c, err)
		}
	}
	return nil
}
