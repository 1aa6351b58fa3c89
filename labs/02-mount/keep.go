package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// pinned: a mount that another namespace has copied outlives its unmounting.
func pinned(t *course.T) error {
	place, err := bench(t, "disk")
	if err != nil {
		return err
	}
	path := filepath.Join(place, "disk")
	if err := Tmpfs(t.Context(), path, TmpfsOptions{Name: t.Name(), Size: 1 << 20}); err != nil {
		return err
	}
	file := filepath.Join(path, "file")
	if err := os.WriteFile(file, []byte("still here\n"), 0o644); err != nil {
		return err
	}
	box, err := newBox(t.Context(), t)
	if err != nil {
		return err
	}
	before, err := mountedOn(outside(), path)
	if err != nil {
		return err
	}
	if err := Unmount(t.Context(), path); err != nil {
		return err
	}
	here, err := mountedOn(outside(), path)
	if err != nil {
		return err
	}
	there, err := mountedOn(box.Pid(), path)
	if err != nil {
		return err
	}
	_, errOutside := os.Stat(file)
	text, errInside := os.ReadFile(evidence.Inside(box.Pid(), file))
	t.See("in the table outside: %s · in the table inside: %s", orNone(here.brief()), orNone(there.brief()))
	t.See("reading disk/file: %s outside, %s inside", evidence.Answer(errOutside), evidence.Answer(errInside))
	t.Equal(0, here.ID, "outside, the disk is unmounted, and nothing complained")
	t.Check(there.ID != 0 && there.Device == before.Device, "device "+before.Device, there.Device,
		"inside, the same file system is still mounted")
	t.Equal("still here\n", string(text), "and its files can still be read")
	return whoHolds(t, box, before)
}

// whoHolds finds the box through the mount tables of all processes, as an administrator would have to, and ends it.
func whoHolds(t *course.T, box *pid.Box, disk Entry) error {
	// The name as well: once it is free, the device number may go to another file system.
	same := func(e Entry) bool { return e.Device == disk.Device && e.Source == disk.Source }
	holders, err := Holders(same)
	if err != nil {
		return err
	}
	t.See("processes whose mount table has device %s: %s", disk.Device, numbers(holders))
	t.Equal(box.Pid(), numbers(holders), "the one process that keeps it is the box")
	if err := box.Kill(t.Context()); err != nil {
		return err
	}
	t.Enter(nil) // a shell at the pause has no box to go into any more
	if holders, err = Holders(same); err != nil {
		return err
	}
	t.See("after the box has ended: %s", numbers(holders))
	t.Equal("–", numbers(holders), "with the box's namespace the last mount has gone")
	return nil
}

// numbers lists process numbers.
func numbers(pids []int) string { return orNone(strings.Trim(fmt.Sprint(pids), "[]")) }

// The cost is measured with this many more mounts, and this many copies, of which the median counts.
const (
	moreMounts = 1000
	copies     = 9
)

// cost: a new mount namespace copies every mount, so it takes longer the more there are.
func cost(t *course.T) error {
	place, err := bench(t, "many")
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	few, err := copyTime(t, box)
	if err != nil {
		return err
	}
	before, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	t.See("%s mounts: a copy of the namespace takes %s (median of %s)", str(len(before)), micro(few), str(copies))
	if _, err := box.Call(t.Context(), "02-many", filepath.Join(place, "many"), str(moreMounts)); err != nil {
		return err
	}
	filled, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	from, err := evidence.Namespace(box.Pid(), "mnt")
	if err != nil {
		return err
	}
	// Held open, so that the kernel cannot give its number, or those of its mounts, to a later copy.
	filledNS, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", box.Pid()))
	if err != nil {
		return err
	}
	defer filledNS.Close()
	lots, err := copyTime(t, box)
	if err != nil {
		return err
	}
	after, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	to, err := evidence.Namespace(box.Pid(), "mnt")
	if err != nil {
		return err
	}
	t.See("%s mounts: a copy of the namespace takes %s (median of %s)", str(len(after)), micro(lots), str(copies))
	t.See("that is about %s for each mount", micro((lots-few)/moreMounts))
	t.Equal(len(before)+moreMounts, len(filled), "the box's table has 1000 lines more")
	t.Check(from != to, "another than "+fmt.Sprint(from), to, "the box is in another namespace than the one it filled")
	t.Equal(len(filled), len(after), "the copy has every line of the original")
	t.Equal(0, after.shared(filled), "and every one of them is a new mount, with a new id")
	return nil
}

// copyTime is the median of a few copies of the box's mount namespace.
func copyTime(t *course.T, box *pid.Box) (time.Duration, error) {
	out, err := box.Call(t.Context(), "02-time-copies", str(copies))
	if err != nil {
		return 0, err
	}
	var took []int
	for _, field := range strings.Fields(out) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("the box measured %q: %w", field, err)
		}
		took = append(took, n)
	}
	if len(took) != copies {
		return 0, fmt.Errorf("the box measured %d copies, not %d", len(took), copies)
	}
	slices.Sort(took)
	return time.Duration(took[copies/2]), nil
}

// micro shows a time in microseconds, with decimals only where they mean something.
func micro(d time.Duration) string {
	us := float64(d.Nanoseconds()) / 1000
	if us < 10 {
		return fmt.Sprintf("%.2f µs", us)
	}
	return fmt.Sprintf("%.0f µs", us)
}
