package security

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
)

// cover: what /proc and /sys tell about the machine, and let root change.
func cover(t *course.T) error {
	box, err := newBox(t, unix.CLONE_NEWPID|unix.CLONE_NEWNS|unix.CLONE_NEWNET)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "01-mount-proc"); err != nil {
		return err
	}
	const file, folder, setting = "/proc/interrupts", "/sys/firmware", "/proc/sys/net/ipv4/ip_forward"
	writable := func() (string, error) { return box.Call(t.Untraced(), "10-open", setting, str(unix.O_WRONLY)) }
	size, entries := len(read(in(box, file))), list(in(box, folder))
	write, err := writable()
	if err != nil {
		return err
	}
	present := 0
	for _, p := range MaskedPaths() {
		if _, err := os.Lstat(in(box, p)); err == nil {
			present++
		}
	}
	t.See("before: %s has %s bytes; %s has: %s; %s opened for writing: %s", file, str(size), folder, entries, setting, write)
	if _, err := box.Call(only(t, "open(", "fsmount", "move_mount"), "10-mask", MaskedPaths()...); err != nil {
		return err
	}
	if _, err := box.Call(only(t, "mount_setattr"), "10-read-only", ReadonlyPaths()...); err != nil {
		return err
	}
	covered, emptied := len(read(in(box, file))), list(in(box, folder))
	refused, err := writable()
	if err != nil {
		return err
	}
	t.See("after: %s has %s bytes; %s has: %s; %s opened for writing: %s", file, str(covered), folder, emptied, setting, refused)
	t.See("of the %s paths that Docker covers, this kernel has %s", str(len(MaskedPaths())), str(present))
	t.Check(size > 0, "more than 0", size, "before, the file told about the machine")
	t.Equal(0, covered, "the file is empty now: it is /dev/null")
	t.Equal("–", emptied, "the folder is empty now: it is a tmpfs")
	t.Equal("ok", write, "before, root of the box could write to /proc/sys")
	t.Equal("EROFS", refused, "now it is read-only, though the rest of /proc is not")
	t.Equal(size > 0, len(read(file)) > 0, "out here the file is as it was")

	keep, err := Capabilities(nil, nil, false)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "10-set-capabilities", keep...); err != nil {
		return err
	}
	unmount, err := box.Call(t.Context(), "10-unmount", file)
	if err != nil {
		return err
	}
	t.See("the box, with the capabilities of a container, unmounts the cover: %s", unmount)
	t.Equal("EPERM", unmount, "without CAP_SYS_ADMIN the cover cannot be taken off")
	return nil
}

// read returns what a file holds, nothing if it cannot be read.
func read(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return data
}

// list is what a folder holds.
func list(path string) string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return evidence.Answer(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		return "–"
	}
	return strings.Join(names, " ")
}

// devices: a device file is a name; the group says whether it opens.
func devices(t *course.T) error {
	box, err := newBox(t, unix.CLONE_NEWNS)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "10-tmpfs", "/tmp", t.Name()); err != nil {
		return err
	}
	if t.InUserNamespace() {
		return noDevices(t, box)
	}
	d, err := anyDevice(t, box)
	if err != nil {
		return err
	}
	g, err := cgroups.NewGroup(t.Untraced(), t, t.Name(), "devices")
	if err != nil {
		return err
	}
	if err := g.Add(t.Untraced(), box.Pid()); err != nil {
		return err
	}
	open := func(ctx context.Context, path string) string {
		answer, err := box.Call(ctx, "10-open", path, str(unix.O_RDONLY))
		if err != nil {
			return err.Error()
		}
		return answer
	}
	before := open(t.Untraced(), "/tmp/device")
	t.See("%s is device %s %s:%s; a file for it, made in the box, opened: %s", d.name, d.kind, str(d.major), str(d.minor), before)
	if err := LimitDevices(first(t, 4), g, DefaultDeviceRules()); err != nil {
		return err
	}
	t.See("%s rules, in control groups v%s", str(len(DefaultDeviceRules())), str(g.Version("devices")))
	after := open(t.Context(), "/tmp/device")
	another, err := box.Call(t.Context(), "10-mknod", "/tmp/another", d.kind, str(d.major), str(d.minor))
	if err != nil {
		return err
	}
	null := open(t.Context(), "/dev/null")
	t.See("now: opened: %s; a second file for it, made: %s, opened: %s; /dev/null: %s", after, another, open(t.Untraced(), "/tmp/another"), null)
	t.Equal("ok", before, "before, root of the box could read the device")
	t.Equal("EPERM", after, "the same file does not open any more")
	t.Equal("ok", another, "another one may still be made")
	t.Equal("EPERM", open(t.Untraced(), "/tmp/another"), "but it does not open either: the numbers count, not the name")
	t.Equal("ok", null, "/dev/null does")
	return nil
}

// noDevices is what an ordinary user finds.
func noDevices(t *course.T, box *pid.Box) error {
	made, err := box.Call(t.Context(), "10-mknod", "/tmp/null", "c", "1", "3")
	if err != nil {
		return err
	}
	t.See("as an ordinary user you are root of a user namespace; mknod of /dev/null's numbers there: %s", made)
	t.Equal("EPERM", made, "in a user namespace no device file can be made, so nothing has to be limited")
	null, err := box.Call(t.Untraced(), "10-open", "/dev/null", str(unix.O_RDONLY))
	if err != nil {
		return err
	}
	t.Equal("ok", null, "those of the host can be used, where they are bound in")
	var e *Error
	_, program := loadDevices(t.Untraced(), deviceProgram(nil))
	t.See("and the program for control groups v2 is refused: %s", evidence.Answer(program))
	t.Diagnose(program)
	t.Check(errors.As(program, &e) && errors.Is(program, unix.EPERM), "EPERM", evidence.Answer(program), "it takes a right over the machine to load one")
	return nil
}

// device is one for the step to try.
type device struct {
	kind         string // "b" or "c"
	major, minor int
	name         string
}

// anyDevice finds one that opens: the first disk that does, or the kernel's log. Its file is in the box, as /tmp/device.
func anyDevice(t *course.T, box *pid.Box) (device, error) {
	var all []device
	for line := range strings.Lines(string(read("/proc/partitions"))) {
		d := device{kind: "b"}
		var blocks int64
		if n, _ := fmt.Sscan(line, &d.major, &d.minor, &blocks, &d.name); n == 4 { // the first line is a title
			all = append(all, d)
		}
	}
	all = append(all, device{"c", 1, 11, "/dev/kmsg"})
	for _, d := range all {
		if _, err := box.Call(t.Untraced(), "10-mknod", "/tmp/device", d.kind, str(d.major), str(d.minor)); err != nil {
			return d, err
		}
		opened, err := box.Call(t.Untraced(), "10-open", "/tmp/device", str(unix.O_RDONLY))
		if err != nil || opened == "ok" {
			return d, err
		}
		if err := os.Remove(in(box, "/tmp/device")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return d, err
		}
	}
	return device{}, errors.New("no device can be opened here: neither a disk nor /dev/kmsg")
}
