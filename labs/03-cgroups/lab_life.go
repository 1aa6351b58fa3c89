package cgroups

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// The steps about the life of a group as a whole.

// soon is how long the kernel may take for what it does in its own time: no machine is so slow.
const soon = 30 * time.Second

// awaitEnd waits for a process that is about to end, for a bounded time. How it ended is not its concern.
func awaitEnd(t *course.T, wait func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(t.Untraced(), soon)
	defer cancel()
	_ = wait(ctx) // a process that was killed is an error to os/exec
	return ctx.Err()
}

// freeze: nothing runs, nothing is lost.
func freeze(t *course.T) error {
	g, err := NewGroup(t.Untraced(), t, t.Name(), "freezer")
	if lacks(t, "freezer", err) {
		return nil
	}
	if err != nil {
		return err
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	if err := g.Add(t.Untraced(), box.Pid()); err != nil {
		return err
	}
	if err := box.Send("03-burn"); err != nil {
		return err
	}
	const running = 50 * time.Millisecond // of CPU time, in 300 ms
	runs := func(since task) bool {
		now, err := observe(box.Pid())
		return err == nil && now.used >= since.used+running
	}
	start, err := observe(box.Pid())
	if err != nil {
		return err
	}
	t.Check(t.Await(soon, func() bool { return runs(start) }), "growing", seconds(start.used), "the loop is running")

	if err := g.Freeze(t.Context()); err != nil {
		return err
	}
	frozen, err := observe(box.Pid())
	if err != nil {
		return err
	}
	if err := t.Sleep(300 * time.Millisecond); err != nil {
		return err
	}
	still, err := observe(box.Pid())
	if err != nil {
		return err
	}
	spelled(t, g, "freezer", "freezer.state = FROZEN", "cgroup.freeze = 1 → cgroup.events: frozen 1")
	t.See("CPU time in /proc/%s/stat: %s when frozen, %s after 0.3 s", strconv.Itoa(box.Pid()), seconds(frozen.used), seconds(still.used))
	t.See("its state is %s: there is no letter for frozen, v1 shows D and v2 S", state(box.Pid()))
	t.Check(isFrozen(g), "frozen", frozenText(g), "the kernel says that the group is frozen")
	// Not to the tick: a task counts as frozen when it is about to leave its CPU, and may enter one more tick on the way.
	t.Check(still.used < frozen.used+running, frozen.used, still.used, "its CPU time stands still")
	t.Check(evidence.Alive(box.Pid()), "alive", state(box.Pid()), "the process is still there")

	if err := g.Thaw(t.Context()); err != nil {
		return err
	}
	again := t.Await(soon, func() bool { return runs(still) })
	now, err := observe(box.Pid())
	if err != nil {
		return err
	}
	t.See("after the thaw it goes on where it stopped: %s", seconds(now.used))
	t.Check(again, "> "+seconds(still.used), seconds(now.used), "thawed, its CPU time grows again")
	return nil
}

// frozenText is what the kernel says about the group.
func frozenText(g *Group) string {
	if g.Version("freezer") == 1 {
		return content(g, "freezer", stateFile)
	}
	return content(g, "freezer", eventsFile)
}

func isFrozen(g *Group) bool {
	text := frozenText(g)
	return text == "FROZEN" || strings.Contains(text, "frozen 1")
}

// kill: a group goes only when nobody is in it, and everybody in it can be ended at once.
func kill(t *course.T) error {
	controllers := []string{"freezer"}
	s, err := Discover()
	if err != nil {
		return err
	}
	if _, ok := s.Find(Core); ok {
		controllers = append(controllers, Core)
	}
	g, err := NewGroup(t.Untraced(), t, t.Name(), controllers...)
	if lacks(t, "freezer", err) {
		return nil
	}
	if err != nil {
		return err
	}
	var boxes [3]*pid.Box
	for i := range boxes {
		if boxes[i], err = newBox(t); err != nil {
			return err
		}
		if err := g.Add(t.Untraced(), boxes[i].Pid()); err != nil {
			return err
		}
		if err := boxes[i].Send("03-burn"); err != nil {
			return err
		}
	}
	inside, err := g.Pids()
	if err != nil {
		return err
	}
	t.See("in the group: processes %s, three containers that know nothing of each other", strings.Trim(fmt.Sprint(inside), "[]"))
	dir := g.Dirs[len(g.Dirs)-1].Path
	err = rmdir(t.Context(), dir)
	t.Check(errors.Is(err, unix.EBUSY), unix.EBUSY.Error(), fmt.Sprint(err), "a group with processes in it cannot be removed")

	if err := g.Kill(t.Context()); err != nil {
		return err
	}
	dead := 0
	for _, b := range boxes {
		_ = awaitEnd(t, b.Wait) // whoever lives on is counted
		if !evidence.Alive(b.Pid()) {
			dead++
		}
	}
	left, err := g.Pids()
	if err != nil {
		return err
	}
	t.See("v1: FROZEN, SIGKILL to each in cgroup.procs, THAWED · v2: 1 to cgroup.kill")
	if h, ok := s.Find(Core); ok && h.Version == 2 {
		t.See("cgroup.events says: %s", content(g, Core, eventsFile))
	}
	t.Equal(len(boxes), dead, "all three are dead")
	t.Equal("[]", fmt.Sprint(left), "nobody is left in the group")
	if err := g.Delete(t.Context()); err != nil {
		return err
	}
	t.Check(!exists(dir), presence(false), presence(exists(dir)), "now rmdir removes it: %s", filepath.Base(dir))
	return nil
}
