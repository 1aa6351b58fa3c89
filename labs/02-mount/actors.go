package mount

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do. Each function is one function of the stage, or a loop around one.
func init() {
	actor.Register("02-tmpfs", func(ctx context.Context, args []string) (string, error) {
		return "", Tmpfs(ctx, args[0], TmpfsOptions{
			Name: args[1], Size: 1 << 20, Mode: 0o1777, Flags: unix.MS_NOSUID | unix.MS_NODEV,
		})
	})
	onPath("02-disk", func(ctx context.Context, target string) error { return disk(ctx, target, 0) })
	onPath("02-restricted", func(ctx context.Context, target string) error {
		return disk(ctx, target, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	})
	onPath("02-private", PrivateTree)
	onPath("02-slave", SlaveTree)
	onPath("02-unmount", Unmount)
	onPath("02-remount-careless", remountCareless)
	onPath("02-remount-read-only", func(ctx context.Context, target string) error {
		return Remount(ctx, target, unix.MS_RDONLY, 0)
	})
	onTwoPaths("02-bind", Bind)
	onTwoPaths("02-bind-tree", BindTree)
	onTwoPaths("02-bind-one-call", bindOneCall)
	onTwoPaths("02-bind-read-only", BindReadOnly)
	onTwoPaths("02-bind-tree-read-only", BindTreeReadOnly)
	actor.Register("02-write", func(_ context.Context, args []string) (string, error) {
		return "", os.WriteFile(args[0], []byte(args[1]+"\n"), 0o600)
	})
	actor.Register("02-many", many)
	actor.Register("02-time-copies", timeCopies)
}

func onPath(name string, f func(ctx context.Context, path string) error) {
	actor.Register(name, func(ctx context.Context, args []string) (string, error) { return "", f(ctx, args[0]) })
}

func onTwoPaths(name string, f func(ctx context.Context, source, target string) error) {
	actor.Register(name, func(ctx context.Context, args []string) (string, error) { return "", f(ctx, args[0], args[1]) })
}

// bindOneCall asks for a read-only bind the way everybody tries first.
func bindOneCall(ctx context.Context, source, target string) error {
	return Syscall(ctx, source, target, "", unix.MS_BIND|unix.MS_RDONLY, "")
}

// remountCareless names only the flag that is to change, as if a remount added to the others.
func remountCareless(ctx context.Context, target string) error {
	return Syscall(ctx, "", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// many binds a folder on n folders beside it. One call is shown; n would be no easier to believe.
func many(ctx context.Context, args []string) (string, error) {
	dir := args[0]
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	for i := range n {
		target := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(target, 0o755); err != nil {
			return "", err
		}
		if i == 1 {
			ctx = trace.Off(ctx)
		}
		if err := Bind(ctx, dir, target); err != nil {
			return "", err
		}
	}
	return "", nil
}

// timeCopies moves this process into a new mount namespace n times, and returns how many nanoseconds each copy took.
func timeCopies(ctx context.Context, args []string) (string, error) {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	var took []string
	for i := range n {
		if i == 1 {
			ctx = trace.Off(ctx)
		}
		// The open file keeps the old namespace until the clock has stopped: else its dismantling would be timed too.
		old, err := os.Open("/proc/thread-self/ns/mnt")
		if err != nil {
			return "", err
		}
		start := time.Now()
		err = Unshare(ctx)
		took = append(took, fmt.Sprint(time.Since(start).Nanoseconds()))
		old.Close()
		if err != nil {
			return "", err
		}
	}
	return strings.Join(took, " "), nil
}
