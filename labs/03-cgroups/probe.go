package cgroups

import (
	"context"
	"errors"
	"slices"
)

// telling is a file that a group has if, and only if, it has the controller: v1's name, v2's name.
func telling() map[string][2]string {
	return map[string][2]string{
		"cpu": {"cpu.cfs_quota_us", "cpu.max"}, "cpuset": {"cpuset.cpus", "cpuset.cpus"},
		"memory": {"memory.limit_in_bytes", "memory.max"}, "pids": {"pids.max", "pids.max"},
		"io": {"blkio.throttle.write_bps_device", "io.max"}, "freezer": {stateFile, freezeFile},
		Core: {"", procsFile}, "cpuacct": {"cpuacct.usage", "cpu.stat"}, "devices": {"devices.list", procsFile},
	}
}

// Probe finds out whether a group with a controller can be made here, by making one, looking for the controller's file in
// it, and removing it. name must start with "nslab-". Before each [Thing] is made, journal is told, and done is called
// once it is gone again; journal may be nil.
func Probe(ctx context.Context, name, controller string, journal func(Thing) (done func() error, err error)) (err error) {
	s, err := Discover()
	if err != nil {
		return err
	}
	g, err := s.Plan(name, controller)
	if err != nil {
		return err
	}
	things := g.Things()
	done := make([]func() error, len(things))
	if journal != nil {
		for i, t := range things {
			if done[i], err = journal(t); err != nil {
				return err
			}
		}
	}
	defer func() {
		ctx := context.WithoutCancel(ctx)
		for i, t := range slices.Backward(things) {
			e := Undo(ctx, t)
			if e == nil && done[i] != nil {
				e = done[i]()
			}
			err = errors.Join(err, e)
		}
	}()
	if err := g.Create(ctx); err != nil {
		return err
	}
	if names, ok := telling()[controller]; ok {
		if _, err := readFile(g.File(controller, names[g.Version(controller)-1])); err != nil {
			return err
		}
	}
	return nil
}
