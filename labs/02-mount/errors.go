package mount

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

// Error is a call that the kernel refused, with the arguments it was given.
type Error struct {
	Op     string  // what was to be done: "bind", "remount", "make private", "unmount", "mount_setattr" …
	Source string  // what was to be mounted
	Target string  // where
	FSType string  // of a new file system
	Flags  uintptr // MS_*; for "unmount" MNT_* and UMOUNT_*
	Data   string  // options of the file system
	Err    error   // the errno
}

// Error reads "02-mount: bind /a on /b (MS_BIND|MS_REC): invalid argument".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("02-mount: " + e.Op)
	what := e.FSType
	if what == "" {
		what = e.Source
	}
	if what != "" {
		b.WriteString(" " + what)
	}
	if what != "" && e.Target != "" {
		b.WriteString(" on")
	}
	if e.Target != "" {
		b.WriteString(" " + e.Target)
	}
	var how []string
	if flags := e.flagNames(); flags != "0" {
		how = append(how, flags)
	}
	if e.Data != "" {
		how = append(how, e.Data)
	}
	if len(how) > 0 {
		b.WriteString(" (" + strings.Join(how, ", ") + ")")
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap lets errors.Is find the errno.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) flagNames() string {
	switch e.Op {
	case "unmount":
		return unmountFlagNames(int(e.Flags))
	case "unshare":
		return names(uint64(e.Flags), []flag{{unix.CLONE_NEWNS, "CLONE_NEWNS"}})
	}
	return FlagNames(e.Flags)
}

// Conditions probes what the kernel requires for this call, as far as its errno leaves in doubt which of them it meant.
// The list is that of mount(2), umount(2) and mount_namespaces(7), and of fs/namespace.c where they are silent.
func (e *Error) Conditions() []diagnosis.Condition {
	is := func(errno unix.Errno) bool { return errors.Is(e.Err, errno) }
	switch {
	case is(unix.EPERM):
		return e.permission()
	case is(unix.EACCES):
		return diagnosis.Those(unconfined(), e.sourceWritable())
	case is(unix.EINVAL):
		return e.invalid()
	case is(unix.EBUSY):
		return e.busy()
	case is(unix.ENOENT):
		return diagnosis.Those(e.sourceExists(), e.targetExists())
	case is(unix.ENOTDIR):
		return diagnosis.Those(e.sourceExists(), e.targetExists(), e.sameKind())
	case is(unix.ELOOP):
		return diagnosis.Those(e.noLink())
	case is(unix.ENODEV):
		return diagnosis.Those(e.fileSystemKnown())
	case is(unix.ENOTBLK):
		return diagnosis.Those(e.blockDevice())
	case is(unix.ENOSPC) && e.Op == "unshare":
		return diagnosis.Those(roomForNamespaces())
	case is(unix.ENOSPC):
		return diagnosis.Those(roomForMounts())
	case is(unix.ENOSYS):
		return diagnosis.Those(e.kernelHas())
	}
	return nil
}

// changesMount says whether the call changes or removes a mount that must be there.
func (e *Error) changesMount() bool {
	return e.Flags&unix.MS_REMOUNT != 0 || e.Op == "unmount" || e.Op == "mount_setattr" ||
		e.Flags&unix.MS_BIND == 0 && e.Flags&propagation != 0
}

func (e *Error) permission() []diagnosis.Condition {
	all := diagnosis.Those(capable())
	if e.Flags&unix.MS_REMOUNT != 0 {
		all = append(all, diagnosis.Those(e.keepsLocked())...)
	}
	if e.FSType != "" {
		all = append(all, diagnosis.Those(e.allowedInUserNamespace(), e.nothingCovered())...)
	}
	return append(all, diagnosis.Those(noFilter())...)
}

func (e *Error) invalid() []diagnosis.Condition {
	switch {
	case e.changesMount():
		all := diagnosis.Those(e.targetExists(), e.targetIsMountPoint())
		if e.Op == "unmount" {
			all = append(all, diagnosis.Those(e.notInherited())...)
		}
		return all
	case e.Op == "move" || e.Flags&unix.MS_MOVE != 0:
		return diagnosis.Those(e.sourceIsMountPoint(), e.sourceParentPrivate())
	case e.Flags&unix.MS_BIND != 0 || e.Op == "open_tree":
		return diagnosis.Those(e.sourceExists(), e.sourceBindable(), e.nothingHidden())
	case e.FSType != "":
		return diagnosis.Those(e.optionsKnown())
	}
	return nil
}

func (e *Error) busy() []diagnosis.Condition {
	switch {
	case e.Op == "unmount":
		return diagnosis.Those(e.nothingMountedBelow(), e.nobodyInside(false))
	case e.Flags&unix.MS_REMOUNT != 0 || e.Op == "mount_setattr":
		return diagnosis.Those(e.nobodyInside(true))
	}
	return diagnosis.Those(e.notMountedThere())
}
