package security

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/walker"
)

// What confines a process is a list of system calls, made by its last thread: in the init of a container by this process
// itself, in a child of `exec` by a walker, see lab 06. So each of them is written down as a
// [setns.Call] first. To make it is the same for all.

// DropBounding takes out of the bounding set what is not in keep. What is gone from it no program can ever get back,
// neither by a set-user-id bit nor by file capabilities. It takes CAP_SETPCAP, so it comes before the change of identity.
func DropBounding(ctx context.Context, keep []string) error {
	calls, err := dropBounding(keep)
	return makeAll(ctx, calls, err)
}

func dropBounding(keep []string) ([]setns.Call, error) {
	kept, err := bits(keep)
	if err != nil {
		return nil, err
	}
	var calls []setns.Call
	for c := range lastCap() + 1 {
		if kept.has(c) {
			continue
		}
		name := capName(c)
		if name == "" {
			name = fmt.Sprint(c) // of a kernel younger than nslab: not known is not kept
		}
		calls = append(calls, prctl("PR_CAPBSET_DROP", name, unix.PR_CAPBSET_DROP, uintptr(c), 0))
	}
	return calls, nil
}

// KeepCapabilities says whether the permitted set outlives the change from user 0 to another. It does not by itself, and
// a runtime that gives a capability to an ordinary user needs it to. execve(2) resets this.
func KeepCapabilities(ctx context.Context, keep bool) error {
	return makeAll(ctx, []setns.Call{keepCapabilities(keep)}, nil)
}

func keepCapabilities(keep bool) setns.Call {
	var n uintptr
	if keep {
		n = 1
	}
	return prctl("PR_SET_KEEPCAPS", fmt.Sprint(n), unix.PR_SET_KEEPCAPS, n, 0)
}

// SetCapabilities gives the calling thread its final sets, after the change of identity. The ambient set is emptied
// first: what is in it an ordinary user's programs would have without asking.
//
// For root, the bounding set is what counts after execve(2): a program that root executes gets all of it. For any other
// user it is the ambient set. See "Transformation of capabilities during execve()" in capabilities(7).
func SetCapabilities(ctx context.Context, c *specs.LinuxCapabilities) error {
	calls, err := setCapabilities(c)
	return makeAll(ctx, calls, err)
}

func setCapabilities(c *specs.LinuxCapabilities) ([]setns.Call, error) {
	if c == nil {
		return nil, nil
	}
	var sets [4]set
	for i, names := range [][]string{c.Effective, c.Permitted, c.Inheritable, c.Ambient} {
		var err error
		if sets[i], err = bits(names); err != nil {
			return nil, err
		}
	}
	effective, permitted, inheritable, ambient := sets[0], sets[1], sets[2], sets[3]
	// What capset(2) takes: a version and whose they are, 0 for one's own; then the low halves of the sets, and the high ones.
	word := binary.NativeEndian.AppendUint32
	header, halves := word(word(nil, unix.LINUX_CAPABILITY_VERSION_3), 0), []byte(nil)
	for i := range 2 {
		for _, s := range []set{effective, permitted, inheritable} {
			halves = word(halves, uint32(s>>(32*i)))
		}
	}
	calls := []setns.Call{
		// Before capset: to lower is always allowed, and what is not permitted can't stay ambient anyhow.
		prctl("PR_CAP_AMBIENT", "PR_CAP_AMBIENT_CLEAR_ALL", unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0),
		{
			Trap: unix.SYS_CAPSET, Op: "capset", At: setns.Here(-1), Data: [6]*walker.Data{{Bytes: header}, {Bytes: halves}},
			Text: fmt.Sprintf("capset({0}, {effective=%#x, permitted=%#x, inheritable=%#x})", effective, permitted, inheritable),
		},
	}
	for i := range 64 { // after capset: only what is permitted and inheritable can be ambient
		if ambient.has(i) {
			calls = append(calls, prctl("PR_CAP_AMBIENT", "PR_CAP_AMBIENT_RAISE, "+capName(i),
				unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(i)))
		}
	}
	return calls, nil
}

// NoNewPrivileges makes execve(2) grant nothing: set-user-id bits and file capabilities are ignored, for this thread and
// everything that comes of it. It cannot be taken back.
func NoNewPrivileges(ctx context.Context) error {
	return makeAll(ctx, []setns.Call{noNewPrivileges()}, nil)
}

func noNewPrivileges() setns.Call {
	return prctl("PR_SET_NO_NEW_PRIVS", "1", unix.PR_SET_NO_NEW_PRIVS, 1, 0)
}

// Before is what confines a program that [setns.Start] executes, as far as it takes rights which the change of identity
// gives away: for [setns.Config]'s Before. f may be nil.
func Before(p *specs.Process, f *Filter) ([]setns.Call, error) {
	var calls []setns.Call
	if p.Capabilities != nil {
		var err error
		if calls, err = dropBounding(p.Capabilities.Bounding); err != nil {
			return nil, err
		}
	}
	if f != nil && !p.NoNewPrivileges {
		calls = append(calls, f.load())
	}
	return append(calls, keepCapabilities(true)), nil
}

// After is what follows that change, for [setns.Config]'s After.
func After(p *specs.Process) ([]setns.Call, error) { return setCapabilities(p.Capabilities) }

// Last is the rest, which takes no rights, for [setns.Config]'s Last.
func Last(p *specs.Process, f *Filter) (calls []setns.Call) {
	if p.NoNewPrivileges {
		calls = append(calls, noNewPrivileges())
		if f != nil {
			calls = append(calls, f.load()) // the very last: every call from here on is asked for
		}
	}
	return calls
}

// prctl writes down a prctl(2). The kernel wants the arguments that an option does not use to be 0.
func prctl(option, argument string, args ...uintptr) setns.Call {
	c := setns.Call{Trap: unix.SYS_PRCTL, Op: "prctl", At: setns.Here(0), Text: fmt.Sprintf("prctl(%s, %s)", option, argument)}
	copy(c.Args[:], args)
	c.What = option + " " + argument
	return c
}

// makeAll makes calls on the calling thread, until one is refused.
func makeAll(ctx context.Context, calls []setns.Call, err error) error {
	for _, c := range calls {
		if err = make1(ctx, c); err != nil {
			break
		}
	}
	return err
}

// make1 makes one call. The line that is shown is that of the exported function, which chose it.
func make1(ctx context.Context, c setns.Call) error {
	if err := trace.Call(ctx, 2, func() string { return c.Text }, c.Make); err != nil {
		return &Error{Op: c.Op, What: c.What, Err: err}
	}
	return nil
}
