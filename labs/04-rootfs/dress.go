package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// attributes are what an entry of a tar says of a file besides its content.
type attributes struct {
	uid, gid int
	mode     uint32 // permissions, with set-uid, set-gid and the sticky bit
	mtime    unix.Timespec
	extended map[string]string
}

// maxID is the highest user or group number. The one above it, as a 32-bit number, means "leave it" to chown(2).
const maxID = 1<<32 - 2

func attributesOf(h *tar.Header) (attributes, error) {
	a := attributes{uid: h.Uid, gid: h.Gid, mode: uint32(h.Mode & 0o7777)}
	if h.Uid < 0 || h.Uid > maxID || h.Gid < 0 || h.Gid > maxID {
		return a, fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, unix.EINVAL)
	}
	a.mtime = unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrPrefix); ok && BelongsToContent(name) {
			if a.extended == nil {
				a.extended = map[string]string{}
			}
			a.extended[name] = value
		}
	}
	return a, nil
}

// BelongsToContent tells which extended attributes a tar may set. The file's capabilities and its access list are part of
// its rights, and user.* is what its owner wrote. All others are the host's: labels of its security policy, and trusted.*,
// with which overlay marks what a layer takes away. So a layer cannot say "opaque" but by a whiteout, and in a user
// namespace, where overlay's marks are called user.overlay.*, neither.
func BelongsToContent(name string) bool {
	switch name {
	case capabilityXattr, "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// size is about how much memory the attributes take.
func (a *attributes) size() (n int) {
	for name, value := range a.extended {
		n += len(name) + len(value)
	}
	return n
}

// withoutRights takes away what would lend rights to whoever executes the file.
func (a *attributes) withoutRights(lost map[string]int) {
	const setID = unix.S_ISUID | unix.S_ISGID
	if a.mode&setID != 0 {
		a.mode &^= setID
		lost["set-uid"]++
	}
	if _, has := a.extended[capabilityXattr]; has {
		delete(a.extended, capabilityXattr)
		lost["capability"]++
	}
}

// dress gives an open file its owner, mode, extended attributes and time, in this order: a new owner clears the set-uid bit
// and the capabilities, the mode would change an access list, and all of them are changes. byPath is a descriptor that was
// opened with O_PATH; it can be a folder, a device or a link.
//
// A call that would change nothing is not made: on a new file the owner is nearly always right, and so is the mode, and
// each change costs a place in the file system's journal.
func (a *attributes) dress(fd int, byPath bool, lost map[string]int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	owned := true
	if int(st.Uid) != a.uid || int(st.Gid) != a.gid {
		err := unix.Fchownat(fd, "", a.uid, a.gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		owned = err == nil
		if err := lose(lost, "owner", err); err != nil {
			return err
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK { // a link has no mode, and no attributes that a tar may set
		if err := a.dressRights(fd, byPath, owned, st.Mode&0o7777, lost); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(fd, "", []unix.Timespec{a.mtime, a.mtime}, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

func (a *attributes) dressRights(fd int, byPath, owned bool, now uint32, lost map[string]int) error {
	const setID = unix.S_ISUID | unix.S_ISGID
	mode := a.mode
	if !owned && mode&setID != 0 {
		mode &^= setID // they would now hand out the rights of somebody else
		lost["set-uid"]++
	}
	if now != mode {
		var err error
		if byPath {
			err = unix.Chmod(through(fd), mode)
		} else {
			err = unix.Fchmod(fd, mode)
		}
		if err != nil {
			return err
		}
	}
	for name, value := range a.extended {
		var err error
		if byPath {
			err = unix.Setxattr(through(fd), name, []byte(value), 0)
		} else {
			err = unix.Fsetxattr(fd, name, []byte(value), 0)
		}
		kind := "attribute"
		if name == capabilityXattr {
			kind = "capability"
		}
		if err := lose(lost, kind, err); err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

// dressAt is dress for what was just made below an open folder. Nothing is followed.
func (a *attributes) dressAt(dir int, base string, lost map[string]int) error {
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return a.dress(fd, true, lost)
}

// lose counts what the caller has no right to do, and lets other errors through.
func lose(lost map[string]int, what string, err error) error {
	for _, refusal := range []error{unix.EPERM, unix.EINVAL, unix.EOVERFLOW, unix.EOPNOTSUPP} {
		if errors.Is(err, refusal) { // EINVAL: an id that this user namespace does not map
			lost[what]++
			return nil
		}
	}
	return err
}
