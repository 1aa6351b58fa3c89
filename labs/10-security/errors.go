package security

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
	mount "github.com/nslab/nslab/labs/02-mount"
)

var (
	// ErrUnknown is a capability, an action or an operator that nobody has heard of.
	ErrUnknown = errors.New("unknown")

	// ErrNotHeld is a capability that cannot be given, since nslab's own bounding set lacks it.
	ErrNotHeld = errors.New("not in nslab's own bounding set")

	// ErrNotNull is a /dev/null that is another device, or none.
	ErrNotNull = errors.New("not the null device")
)

// CapabilityError is a capability that was asked for and cannot be had.
type CapabilityError struct {
	Name string // as it was asked for
	Err  error  // ErrUnknown or ErrNotHeld
}

func (e *CapabilityError) Error() string {
	if errors.Is(e.Err, ErrUnknown) {
		return fmt.Sprintf("10-security: unknown capability %q", e.Name)
	}
	return fmt.Sprintf("10-security: give capability %s: %s", e.Name, e.Err)
}

func (e *CapabilityError) Unwrap() error { return e.Err }

// ProfileError is a part of a seccomp profile that makes no sense.
type ProfileError struct {
	Part string // "action", "operator", "architecture"
	Name string // what it says
	Err  error
}

func (e *ProfileError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("10-security: seccomp profile: %s: %s", e.Part, e.Err)
	}
	return fmt.Sprintf("10-security: seccomp profile: %s %q: %s", e.Part, e.Name, e.Err)
}

func (e *ProfileError) Unwrap() error { return e.Err }

// Error is a call that the kernel refused.
type Error struct {
	Op   string // "prctl", "capset", "seccomp", "bpf", "write", "mask"
	What string // what it was about: "PR_CAPBSET_DROP CAP_SYS_TIME", "/proc/kcore"
	Err  error  // the errno, or a sentinel of this package
}

// Error reads "10-security: prctl PR_CAPBSET_DROP CAP_SYS_TIME: operation not permitted".
func (e *Error) Error() string {
	text := "10-security: " + e.Op
	if e.What != "" {
		text += " " + e.What
	}
	return text + ": " + e.Err.Error()
}

// Unwrap lets errors.Is find the errno.
func (e *Error) Unwrap() error { return e.Err }

// Conditions probes what the kernel requires for the call.
func (e *Error) Conditions() []diagnosis.Condition {
	is := func(errno unix.Errno) bool { return errors.Is(e.Err, errno) }
	switch {
	case e.Op == "prctl" && is(unix.EPERM):
		return []diagnosis.Condition{holds(capability.CAP_SETPCAP, "nslab has CAP_SETPCAP")}
	case e.Op == "seccomp" && is(unix.EACCES):
		return []diagnosis.Condition{
			{What: "the thread has set no_new_privs", OK: noNewPrivs(), Remedy: "set no_new_privs before the filter"},
			holds(capability.CAP_SYS_ADMIN, "or it has CAP_SYS_ADMIN"),
		}
	case e.Op == "seccomp" && (is(unix.ENOSYS) || is(unix.EINVAL)):
		return []diagnosis.Condition{{
			What: "the kernel has seccomp filters", Detail: "/proc/sys/kernel/seccomp",
			OK:     unix.Access("/proc/sys/kernel/seccomp", unix.F_OK) == nil,
			Remedy: "take a kernel with CONFIG_SECCOMP_FILTER, or run without a filter (--security-opt seccomp=unconfined)",
		}}
	case e.Op == "bpf" && is(unix.EPERM):
		return []diagnosis.Condition{
			holds(capability.CAP_SYS_ADMIN, "nslab has CAP_SYS_ADMIN (or CAP_BPF and CAP_NET_ADMIN)"),
			{
				What: "nslab is in the first user namespace", OK: !mount.InUserNamespace(),
				Remedy: "an ordinary user can limit no devices, and need not: in a user namespace mknod is refused",
			},
		}
	}
	return nil
}

// holds tells whether the calling thread has a capability.
func holds(c capability.Cap, what string) diagnosis.Condition {
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	return diagnosis.Condition{
		What: what, Detail: fmt.Sprintf("uid %d", os.Geteuid()),
		OK:     err == nil && caps.Get(capability.EFFECTIVE, c),
		Remedy: "run nslab as root, with this capability",
	}
}

func noNewPrivs() bool {
	n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && n == 1
}
