package security

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// DefaultCapabilities are those that Docker leaves to root in a container: enough to install packages, change owners and
// users, and bind port 80; not enough to mount, to set the clock, to load a module or to look into other processes.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// KnownCapabilities are those that this kernel has, in the order of their numbers. Newer kernels have more
// (/proc/sys/kernel/cap_last_cap); one that nslab has no name for is left out.
func KnownCapabilities() []string {
	var names []string
	for c := range lastCap() + 1 {
		if n := capName(c); n != "" {
			names = append(names, n)
		}
	}
	return names
}

// Capabilities is what --cap-add, --cap-drop and --privileged make of the default, in Docker's words: with or without
// CAP_, in any case, and ALL. "--cap-drop ALL --cap-add CHOWN" leaves one; "--cap-add ALL --cap-drop CHOWN" takes one.
// What is dropped is dropped, even with privileged, where Docker forgets about it.
//
// Nobody can give what he does not have. So ALL, privileged and the default mean those in our own bounding set: in a
// container without CAP_SYS_RESOURCE, everything is everything else. One that was asked for by its name is an error.
func Capabilities(add, drop []string, privileged bool) ([]string, error) {
	adds, err := normalize(add)
	if err != nil {
		return nil, err
	}
	drops, err := normalize(drop)
	if err != nil {
		return nil, err
	}
	held := heldCapabilities()
	list, everything := DefaultCapabilities(), privileged || slices.Contains(adds, all)
	switch {
	case everything:
		list = slices.Clone(held)
	case slices.Contains(drops, all):
		list = nil
	}
	list = slices.DeleteFunc(list, func(c string) bool { return !slices.Contains(held, c) || slices.Contains(drops, c) })
	for _, c := range adds {
		switch {
		case c == all, slices.Contains(list, c):
		case !slices.Contains(held, c):
			return nil, &CapabilityError{Name: c, Err: ErrNotHeld}
		case everything && slices.Contains(drops, c):
		default:
			list = append(list, c)
		}
	}
	return list, nil
}

// all stands for every capability.
const all = "ALL"

// normalize brings names into the form "CAP_CHOWN".
func normalize(names []string) ([]string, error) {
	var list []string
	for _, asked := range names {
		n := strings.ToUpper(strings.TrimSpace(asked))
		if n != all && n != "CAP_"+all {
			n = "CAP_" + strings.TrimPrefix(n, "CAP_")
			if _, ok := number(n); !ok {
				return nil, &CapabilityError{Name: asked, Err: ErrUnknown}
			}
		} else {
			n = all
		}
		if !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return list, nil
}

// heldCapabilities are those in the bounding set of this process: what a program that it executes can ever have.
func heldCapabilities() []string {
	var names []string
	for c := range lastCap() + 1 {
		if n, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && n == 1 {
			if name := capName(c); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// lastCap is the number of the last capability that the kernel has.
func lastCap() int {
	last, err := capability.LastCap()
	if err != nil {
		return unix.CAP_LAST_CAP // no /proc: what was known when this was compiled
	}
	return int(last)
}

// number is a capability's number; ok is false where nobody knows the name.
func number(name string) (n int, ok bool) {
	name, ok = strings.CutPrefix(name, "CAP_")
	for c := 0; ok && capability.Cap(c).String() != unnamed; c++ {
		if strings.EqualFold(capability.Cap(c).String(), name) {
			return c, true
		}
	}
	return 0, false
}

// unnamed is how the library calls a number that it does not know.
const unnamed = "unknown"

// capName is a capability's name, "" where nslab knows none.
func capName(c int) string {
	if s := capability.Cap(c).String(); s != unnamed {
		return "CAP_" + strings.ToUpper(s)
	}
	return ""
}

// set is a set of capabilities as the kernel keeps it: a bit for each.
type set uint64

// bits makes a set of names. One that this kernel does not have is left out, as it has nothing to guard; a name that
// nobody knows is an error.
func bits(names []string) (set, error) {
	var s set
	last := lastCap()
	for _, name := range names {
		n, ok := number(name)
		if !ok {
			return 0, &CapabilityError{Name: name, Err: ErrUnknown}
		}
		if n <= last {
			s |= 1 << n
		}
	}
	return s, nil
}

func (s set) has(c int) bool { return s>>c&1 != 0 }
