package mount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Entry is one mount, as a line of a mount table describes it. See proc_pid_mountinfo(5).
type Entry struct {
	ID, Parent   int    // valid in its own mount namespace, and until it is unmounted: a copy has another id
	Device       string // of the file system: "0:25". Two mounts with the same device show the same files
	Root         string // the folder of that file system which is visible: "/" but for binds
	Target       string // where it is mounted, seen from the reader's root
	Options      string // of this mount: "rw,nosuid,relatime"
	Shared       int    // the peer group it belongs to, 0 if none
	Master       int    // the peer group it hears from, 0 if none
	Unbindable   bool
	FSType       string // "tmpfs"
	Source       string // what it was mounted from: free text for a file system without a disk
	SuperOptions string // of the file system, wherever it is mounted: "rw,size=1024k"
}

// Propagation is the mount's type as the table marks it: "shared:3", "master:3", both, "unbindable" or "private".
func (e Entry) Propagation() string {
	var marks []string
	if e.Shared > 0 {
		marks = append(marks, fmt.Sprintf("shared:%d", e.Shared))
	}
	if e.Master > 0 {
		marks = append(marks, fmt.Sprintf("master:%d", e.Master))
	}
	if e.Unbindable {
		marks = append(marks, "unbindable")
	}
	if len(marks) == 0 {
		return "private" // the kernel shows nothing for it
	}
	return strings.Join(marks, " ")
}

// Has tells whether the mount has an option, "ro" or "nosuid".
func (e Entry) Has(option string) bool {
	return slices.Contains(strings.Split(e.Options, ","), option)
}

// String shows the entry as findmnt(8) would: what, where, how.
func (e Entry) String() string {
	return fmt.Sprintf("%d %s %s on %s %s %s", e.ID, e.FSType, e.Source, e.Target, e.Options, e.Propagation())
}

// Table is the mount table of one mount namespace.
type Table []Entry

// TableOf reads the mount table of the namespace that the process is in, from outside.
func TableOf(pid int) (Table, error) { return tableAt(strconv.Itoa(pid)) }

// Current reads the mount table of the calling thread's namespace. /proc/self would be the main thread's, which in a Go
// program need not be the same.
func Current() (Table, error) { return tableAt("thread-self") }

func tableAt(process string) (Table, error) {
	f, err := os.Open("/proc/" + process + "/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("02-mount: read mount table: %w", err)
	}
	defer f.Close()
	return ReadTable(f)
}

// ReadTable parses the text of a mountinfo file.
func ReadTable(r io.Reader) (Table, error) {
	infos, err := mountinfo.GetMountsFromReader(r, nil)
	if err != nil {
		return nil, fmt.Errorf("02-mount: read mount table: %w", err)
	}
	table := make(Table, 0, len(infos))
	for _, i := range infos {
		e := Entry{
			ID: i.ID, Parent: i.Parent, Device: fmt.Sprintf("%d:%d", i.Major, i.Minor), Root: i.Root, Target: i.Mountpoint,
			Options: i.Options, FSType: i.FSType, Source: i.Source, SuperOptions: i.VFSOptions,
		}
		for _, mark := range strings.Fields(i.Optional) {
			name, number, _ := strings.Cut(mark, ":")
			n, _ := strconv.Atoi(number) // a mark without a number has none to parse
			switch name {
			case "shared":
				e.Shared = n
			case "master":
				e.Master = n
			case "unbindable":
				e.Unbindable = true
			}
		}
		table = append(table, e)
	}
	return table, nil
}

// ByID finds the mount with an id, see [IDOf].
func (t Table) ByID(id int) (Entry, bool) {
	for _, e := range t {
		if e.ID == id {
			return e, true
		}
	}
	return Entry{}, false
}

// At finds what is mounted exactly on target. Where mounts are stacked it is the uppermost, the one that is visible:
// each of the others is the parent of the next. Their order in the table tells nothing, since a mount can be moved.
func (t Table) At(target string) (Entry, bool) {
	covered := map[int]bool{}
	for _, e := range t {
		if e.Target == target && e.Parent != e.ID {
			covered[e.Parent] = true
		}
	}
	for _, e := range t {
		if e.Target == target && !covered[e.ID] {
			return e, true
		}
	}
	return Entry{}, false
}

// Below lists the mounts below target, target itself not included.
func (t Table) Below(target string) Table {
	prefix := strings.TrimSuffix(target, "/") + "/"
	var below Table
	for _, e := range t {
		if strings.HasPrefix(e.Target, prefix) && e.Target != target {
			below = append(below, e)
		}
	}
	return below
}

// Added lists the mounts of t that before, an earlier reading of the same namespace, did not have.
func (t Table) Added(before Table) Table {
	var added Table
	for _, e := range t {
		if _, old := before.ByID(e.ID); !old {
			added = append(added, e)
		}
	}
	return added
}

// IDOf asks for the id of the mount that path lies on. The path may lead into another namespace (/proc/PID/root/tmp):
// the id is then one of that namespace's table.
func IDOf(path string) (int, error) {
	st, err := statx(path)
	return int(st.Mnt_id), err
}

// IsMountPoint tells whether something is mounted exactly on path; a link at its end is followed.
func IsMountPoint(path string) (bool, error) {
	st, err := statx(path)
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, err
}

func statx(path string) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	if err != nil {
		return st, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return st, nil
}

// Holders lists the processes whose mount table has an entry that matches, one process for each namespace: who keeps a
// disk busy that nobody here has mounted. Processes that may not be looked at are left out.
func Holders(match func(Entry) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("02-mount: look through all mount tables: %w", err)
	}
	seen := map[string]bool{}
	var holders []int
	for _, d := range entries {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue // not a process
		}
		namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[namespace] {
			continue
		}
		table, err := TableOf(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) {
			continue // ended meanwhile (a zombie's file answers EINVAL), or somebody else's
		} else if err != nil {
			return nil, err
		}
		seen[namespace] = true
		if slices.ContainsFunc(table, match) {
			holders = append(holders, pid)
		}
	}
	slices.Sort(holders)
	return holders, nil
}
