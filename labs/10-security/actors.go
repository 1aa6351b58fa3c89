package security

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/course/evidence"
	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do: call the stage, and try what it should have taken away.
func init() {
	actor.Register("10-set-capabilities", func(ctx context.Context, names []string) (string, error) {
		return "", SetCapabilities(ctx, given(names))
	})
	actor.Register("10-load", func(ctx context.Context, args []string) (string, error) {
		f := &Filter{}
		if err := json.Unmarshal([]byte(args[0]), f); err != nil {
			return "", err
		}
		return "", f.Load(ctx)
	})
	actor.Register("10-try", tryAll)
	actor.Register("10-price", price)
	actor.Register("10-clock", func(context.Context, []string) (string, error) {
		return strconv.FormatInt(time.Now().UnixNano(), 10), nil
	})
	actor.Register("10-uname", func(context.Context, []string) (string, error) { return uname(), nil })
	actor.Register("10-tmpfs", func(ctx context.Context, args []string) (string, error) {
		return "", mount.Tmpfs(ctx, args[0], mount.TmpfsOptions{Name: args[1], Size: 8 << 20, Mode: 0o755})
	})
	onTree("10-mask", Mask)
	onTree("10-read-only", ReadOnly)
	actor.Register("10-unmount", func(ctx context.Context, args []string) (string, error) {
		return evidence.Answer(mount.Unmount(ctx, args[0])), nil
	})
	actor.Register("10-open", func(ctx context.Context, args []string) (string, error) {
		flags, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		fd := -1
		err = trace.Call(ctx, 0,
			func() string {
				text := fmt.Sprintf("open(%q, %s|O_NONBLOCK|O_CLOEXEC)", args[0], openNames()[flags])
				if fd >= 0 {
					text += fmt.Sprintf(" = %d", fd)
				}
				return text
			},
			func() (err error) {
				fd, err = unix.Open(args[0], flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
				return err
			})
		if err == nil {
			unix.Close(fd)
		}
		return evidence.Answer(err), nil
	})
	actor.Register("10-mknod", mknod)
}

// onTree registers what acts on paths of the root.
func onTree(name string, f func(context.Context, *rootfs.Tree, []string) error) {
	actor.Register(name, func(ctx context.Context, paths []string) (_ string, err error) {
		tree, err := rootfs.OpenTree(trace.Off(ctx), "/")
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, tree.Close()) }()
		return "", f(ctx, tree, paths)
	})
}

func openNames() map[int]string {
	return map[int]string{unix.O_RDONLY: "O_RDONLY", unix.O_WRONLY: "O_WRONLY", unix.O_RDWR: "O_RDWR"}
}

// given is a process's capabilities as a container's are: three sets alike, and nothing that is handed on.
func given(names []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}

// attempt is a system call that a step wants answered. All are harmless where they are allowed.
type attempt struct {
	name string
	call func() (text string, err error)
}

var attempts = []attempt{
	{"sethostname", func() (string, error) { return `sethostname("box")`, unix.Sethostname([]byte("box")) }},
	{"chroot", func() (string, error) { return `chroot("/")`, unix.Chroot("/") }},
	{"settimeofday", setTimeOfDay},
	{"mkdir", func() (string, error) { return `mkdir("/tmp/inside", 0755)`, unix.Mkdir("/tmp/inside", 0o755) }},
	{"setns", func() (string, error) { return "setns(-1, 0)", callRaw(unix.SYS_SETNS, ^uintptr(0), 0) }},
	{"unshare", func() (string, error) { return "unshare(0)", callRaw(unix.SYS_UNSHARE, 0, 0) }},
	{"personality-ask", func() (string, error) {
		return "personality(0xffffffff)", callRaw(unix.SYS_PERSONALITY, 0xffffffff, 0)
	}},
	{"personality-set", func() (string, error) {
		err := callRaw(unix.SYS_PERSONALITY, addrNoRandomize, 0)
		if err == nil {
			err = callRaw(unix.SYS_PERSONALITY, 0, 0)
		}
		return "personality(ADDR_NO_RANDOMIZE)", err
	}},
	{"clone3", func() (string, error) { return "clone3(NULL, 0)", callRaw(unix.SYS_CLONE3, 0, 0) }},
	{"future", func() (string, error) { return "syscall(1000)", callRaw(1000, 0, 0) }},
}

// addrNoRandomize switches off the random placement of a program in memory.
const addrNoRandomize = 0x0040000

// callRaw makes a call as it is, on this thread.
func callRaw(trap, a, b uintptr) error {
	if _, _, errno := unix.RawSyscall(trap, a, b, 0); errno != 0 {
		return errno
	}
	return nil
}

// setTimeOfDay sets the clock's time zone to what it is: it takes the right to set the clock, and changes nothing.
func setTimeOfDay() (string, error) {
	var zone struct{ west, dst int32 }
	if _, _, errno := unix.RawSyscall(unix.SYS_GETTIMEOFDAY, 0, uintptr(unsafe.Pointer(&zone)), 0); errno != 0 {
		return "gettimeofday", errno
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETTIMEOFDAY, 0, uintptr(unsafe.Pointer(&zone)), 0)
	text := fmt.Sprintf("settimeofday(NULL, {tz_minuteswest=%d, tz_dsttime=%d})", zone.west, zone.dst)
	if errno != 0 {
		return text, errno
	}
	return text, nil
}

// tryAll tries calls by name, and returns the kernel's answers.
func tryAll(ctx context.Context, names []string) (string, error) {
	var answers []string
	for _, name := range names {
		i := slices.IndexFunc(attempts, func(a attempt) bool { return a.name == name })
		text := ""
		err := trace.Call(ctx, 0, func() string { return text }, func() (err error) {
			text, err = attempts[i].call()
			return err
		})
		answers = append(answers, evidence.Answer(err))
	}
	return strings.Join(answers, " "), nil
}

// price measures two calls: getppid, which a filter need not look at twice, and personality, whose argument has to be
// looked at. It returns the nanoseconds that one takes in the fastest of many rounds.
func price(context.Context, []string) (string, error) {
	const rounds, each, enough = 25, 200, 30 * time.Millisecond // enough where each call is slow, as under strace
	var answers []string
	for _, c := range []struct{ trap, arg uintptr }{{unix.SYS_GETPPID, 0}, {unix.SYS_PERSONALITY, 0xffffffff}} {
		best, total := time.Duration(1<<63-1), time.Duration(0)
		for n := 0; n < rounds && total < enough; n++ {
			start := time.Now()
			for range each {
				if _, _, errno := unix.RawSyscall(c.trap, c.arg, 0, 0); errno != 0 {
					return "", errno
				}
			}
			took := time.Since(start)
			best, total = min(best, took), total+took
		}
		answers = append(answers, strconv.FormatFloat(float64(best)/each, 'f', 1, 64))
	}
	return strings.Join(answers, " "), nil
}

// mknod makes a device file: its path, "b" or "c", and the two numbers.
func mknod(ctx context.Context, args []string) (string, error) {
	var major, minor uint32
	if _, err := fmt.Sscan(args[2], &major); err != nil {
		return "", err
	}
	if _, err := fmt.Sscan(args[3], &minor); err != nil {
		return "", err
	}
	kind, name := uint32(unix.S_IFCHR), "S_IFCHR"
	if args[1] == "b" {
		kind, name = unix.S_IFBLK, "S_IFBLK"
	}
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("mknod(%q, %s|0600, makedev(%d, %d))", args[0], name, major, minor) },
		func() error { return unix.Mknod(args[0], kind|0o600, int(unix.Mkdev(major, minor))) })
	return evidence.Answer(err), nil
}
