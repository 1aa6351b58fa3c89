package mount

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

func (e *Error) sourceWritable() *diagnosis.Condition {
	if e.FSType == "" || e.Flags&unix.MS_RDONLY != 0 || !strings.HasPrefix(e.Source, "/dev/") {
		return nil
	}
	data, err := os.ReadFile("/sys/class/block/" + filepath.Base(e.Source) + "/ro")
	if err != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: "the device can be written", Detail: e.Source, OK: strings.TrimSpace(string(data)) == "0",
		Remedy: "mount it read-only",
	}
}

func (e *Error) sourceExists() *diagnosis.Condition {
	if e.Source == "" || e.FSType != "" && !strings.HasPrefix(e.Source, "/") {
		return nil // a name, not a path
	}
	return exists("the source exists", e.Source)
}

func (e *Error) targetExists() *diagnosis.Condition {
	if e.Target == "" {
		return nil
	}
	return exists("the target exists", e.Target)
}

// exists names the first part of path that is missing, which is often not the last.
func exists(what, path string) *diagnosis.Condition {
	c := &diagnosis.Condition{What: what, Detail: path, Remedy: "make it first: mount(2) makes no folders"}
	_, err := os.Stat(path)
	if c.OK = err == nil; c.OK {
		return c
	}
	if link, err := os.Readlink(path); err == nil {
		c.Detail = path + " → " + link
		return c
	}
	for dir := filepath.Dir(path); ; path, dir = dir, filepath.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil || dir == path {
			c.Detail = path
			return c
		}
	}
}

func (e *Error) sameKind() *diagnosis.Condition {
	source, err1 := os.Stat(e.Source)
	target, err2 := os.Stat(e.Target)
	if err1 != nil || err2 != nil {
		return nil
	}
	kind := map[bool]string{true: "folder", false: "file"}
	return &diagnosis.Condition{
		What:   "source and target are both folders, or both files",
		Detail: fmt.Sprintf("%s → %s", kind[source.IsDir()], kind[target.IsDir()]), OK: source.IsDir() == target.IsDir(),
		Remedy: "make the target of the same kind",
	}
}

func (e *Error) noLink() *diagnosis.Condition {
	c := &diagnosis.Condition{What: "the target is no symbolic link", Detail: e.Target, OK: true,
		Remedy: "resolve the path first, inside the root it belongs to"}
	if link, err := os.Readlink(e.Target); err == nil {
		c.OK, c.Detail = false, e.Target+" → "+link
	}
	return c
}

func (e *Error) targetIsMountPoint() *diagnosis.Condition {
	if e.Target == "" {
		return nil
	}
	return mountPoint("the target is a mount point", e.Target, "bind the folder onto itself first: then it is one")
}

func (e *Error) sourceIsMountPoint() *diagnosis.Condition {
	return mountPoint("the source is a mount point", e.Source, "bind the folder onto itself first: then it is one")
}

// mountPoint says, where path is none, in which mount it lies.
func mountPoint(what, path, remedy string) *diagnosis.Condition {
	c := &diagnosis.Condition{What: what, Detail: path, Remedy: remedy}
	is, err := IsMountPoint(path)
	if err != nil {
		return nil
	}
	if m, ok := lies(path); ok {
		c.Detail = fmt.Sprintf("%s · mount: %s", path, m.Target)
	}
	if c.OK = is; is {
		c.Detail = path
	}
	return c
}

// lies finds the mount that path lies on, in this namespace's table.
func lies(path string) (Entry, bool) {
	id, err := IDOf(path)
	if err != nil {
		return Entry{}, false
	}
	table, err := Current()
	if err != nil {
		return Entry{}, false
	}
	return table.ByID(id)
}

// notInherited: what a user namespace inherited is locked together, so that nobody can look beneath.
func (e *Error) notInherited() *diagnosis.Condition {
	if !InUserNamespace() {
		return nil
	}
	return &diagnosis.Condition{
		What: "the mount was made in this user namespace, not inherited", Detail: "this is a user namespace", OK: false,
		Remedy: "inherited mounts cannot be unmounted one by one: mount over them, or pivot_root away from all of them",
	}
}

func (e *Error) sourceParentPrivate() *diagnosis.Condition {
	m, ok := lies(e.Source)
	if !ok {
		return nil
	}
	table, err := Current()
	if err != nil {
		return nil
	}
	parent, ok := table.ByID(m.Parent)
	if !ok {
		return nil
	}
	return &diagnosis.Condition{
		What: "the mount around the source is not shared", Detail: parent.Target + ": " + parent.Propagation(),
		OK: parent.Shared == 0, Remedy: "make it private first",
	}
}

func (e *Error) sourceBindable() *diagnosis.Condition {
	m, ok := lies(e.Source)
	if !ok {
		return nil
	}
	return &diagnosis.Condition{
		What: "the source does not lie in an unbindable mount", Detail: m.Target + ": " + m.Propagation(), OK: !m.Unbindable,
		Remedy: "make that mount private instead",
	}
}

// nothingHidden: a bind that leaves the mounts below behind would show what they cover.
func (e *Error) nothingHidden() *diagnosis.Condition {
	if e.Flags&unix.MS_REC != 0 || !InUserNamespace() {
		return nil
	}
	table, err := Current()
	if err != nil {
		return nil
	}
	below := table.Below(e.Source)
	c := &diagnosis.Condition{
		What: "no inherited mount lies below the source", Detail: e.Source, OK: len(below) == 0,
		Remedy: "bind with all mounts below (rbind): in a user namespace they may not be left out",
	}
	if !c.OK {
		c.Detail = below[0].Target
	}
	return c
}

// optionsKnown tries each option on a file system context that is thrown away: nothing is mounted, and the file system
// says in words what it does not like.
func (e *Error) optionsKnown() *diagnosis.Condition {
	if e.Data == "" {
		return nil
	}
	fd, err := unix.Fsopen(e.FSType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	c := &diagnosis.Condition{
		What: "the file system knows the options", Detail: e.Data, OK: true, Remedy: "see its manual page for what it takes",
	}
	for _, option := range strings.Split(e.Data, ",") {
		if err := configure(context.Background(), fd, option); err != nil {
			c.OK, c.Detail = false, fmt.Sprintf("%s: %v", option, kernelSays(fd, err))
			break
		}
	}
	return c
}

func (e *Error) fileSystemKnown() *diagnosis.Condition {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil || e.FSType == "" {
		return nil
	}
	return &diagnosis.Condition{
		What: "the kernel knows the file system", Detail: e.FSType,
		OK:     slices.Contains(strings.Fields(string(data)), e.FSType),
		Remedy: "load its module (modprobe), or boot a kernel that has it",
	}
}

func (e *Error) blockDevice() *diagnosis.Condition {
	st, err := os.Stat(e.Source)
	if err != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: "the source is a block device", Detail: e.Source + ": " + st.Mode().String(),
		OK:     st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0,
		Remedy: "name the device; an image file needs a loop device first",
	}
}

func (e *Error) notMountedThere() *diagnosis.Condition {
	table, err := Current()
	if err != nil {
		return nil
	}
	c := &diagnosis.Condition{
		What: "the source is not mounted on the target already", Detail: e.Target, OK: true,
		Remedy: "unmount it first, or use the mount that is there",
	}
	if m, ok := table.At(e.Target); ok {
		c.OK, c.Detail = m.Source != e.Source, m.String()
	}
	return c
}

func (e *Error) nothingMountedBelow() *diagnosis.Condition {
	table, err := Current()
	if err != nil {
		return nil
	}
	below := table.Below(e.Target)
	c := &diagnosis.Condition{
		What: "nothing is mounted below the target", Detail: e.Target, OK: len(below) == 0,
		Remedy: "unmount what lies below first, deepest first",
	}
	if !c.OK {
		c.Detail = below[len(below)-1].Target
	}
	return c
}

// nobodyInside looks for processes that hold the mount: by its id, since a device number may be mounted elsewhere too.
func (e *Error) nobodyInside(writing bool) *diagnosis.Condition {
	id, err := IDOf(e.Target)
	if err != nil {
		return nil
	}
	c := &diagnosis.Condition{
		What: "no process has a file open or works below the target", Remedy: "end those processes, or detach the mount",
	}
	if writing {
		c.What, c.Remedy = "no file below the target is open for writing", "end the processes that write"
	}
	user := userOf(id, writing)
	c.OK, c.Detail = user == "", user
	return c
}

// userOf returns the first process found that uses the mount, "" if none that may be looked at does.
func userOf(id int, writing bool) string {
	if !writing {
		for _, what := range []string{"cwd", "root", "exe"} {
			links, _ := filepath.Glob("/proc/[0-9]*/" + what)
			for _, link := range links {
				if n, err := IDOf(link); err == nil && n == id {
					return fmt.Sprintf("process %s: %s", filepath.Base(filepath.Dir(link)), what)
				}
			}
		}
	}
	infos, _ := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	for _, info := range infos {
		if n, flags := fdInfo(info); n == id && (!writing || flags&unix.O_ACCMODE != unix.O_RDONLY) {
			part := strings.Split(info, "/")
			return fmt.Sprintf("process %s: descriptor %s", part[2], part[4])
		}
	}
	return ""
}

// fdInfo reads the mount id and the flags of an open file, see proc_pid_fdinfo(5).
func fdInfo(path string) (id, flags int) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); name {
		case "mnt_id":
			id, _ = strconv.Atoi(value)
		case "flags":
			n, _ := strconv.ParseInt(value, 8, 64)
			flags = int(n)
		}
	}
	return id, flags
}

func roomForMounts() *diagnosis.Condition {
	table, err := Current()
	data, err2 := os.ReadFile("/proc/sys/fs/mount-max")
	limit, err3 := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || err2 != nil || err3 != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: "the mount namespace has room for more mounts", Detail: fmt.Sprintf("%d of %d", len(table), limit),
		OK: len(table) < limit, Remedy: "unmount some, or raise it: sysctl -w fs.mount-max=200000",
	}
}

func roomForNamespaces() *diagnosis.Condition {
	data, err := os.ReadFile("/proc/sys/user/max_mnt_namespaces")
	if err != nil {
		return nil
	}
	limit := strings.TrimSpace(string(data))
	return &diagnosis.Condition{
		What: "the limit on mount namespaces is above 0", Detail: "user.max_mnt_namespaces = " + limit, OK: limit != "0",
		Remedy: "sysctl -w user.max_mnt_namespaces=10000",
	}
}

func (e *Error) kernelHas() *diagnosis.Condition {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: "the kernel has this system call", Detail: e.Op + ", Linux " + unix.ByteSliceToString(u.Release[:]), OK: false,
		Remedy: "boot Linux 5.12 or newer; inside a container, a seccomp filter may hide it",
	}
}
