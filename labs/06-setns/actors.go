package setns

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do.
func init() {
	actor.Register("06-setns", enterHere)
	actor.Register("06-spawn", spawn)
	actor.Register("06-chroot", chroot)
	actor.Register("06-hold-root", holdRoot)
}

// enterHere moves the actor's main thread, to which its functions are locked, into the namespace that a file holds.
func enterHere(ctx context.Context, args []string) (string, error) {
	f, k, err := OpenFile(trace.Off(ctx), args[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	return "", Setns(ctx, f, k.Flag)
}

// spawn starts a child from the main thread, and waits for it in the background: as long as nobody has, PID 1 of the
// namespace that it is in cannot end.
func spawn(ctx context.Context, _ []string) (string, error) {
	// No Pdeathsig: Go would have the child compare getppid(2), which is 0 there, with our number, take us for dead, and
	// end itself. It dies with the PID namespace.
	cmd := exec.Command("sleep", "1000")
	err := trace.Call(ctx, 0, func() string { return `fork, execve("sleep 1000")` }, cmd.Start)
	if err != nil {
		return "", err
	}
	go cmd.Wait()
	return strconv.Itoa(cmd.Process.Pid), nil
}

// holdRoot opens the root folder, and keeps it: the number of the descriptor.
func holdRoot(ctx context.Context, _ []string) (string, error) {
	fd := -1
	err := trace.Call(ctx, 0, func() string { return fmt.Sprintf(`open("/", O_PATH|O_DIRECTORY|O_CLOEXEC) = %d`, fd) },
		func() (err error) {
			fd, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			return err
		})
	return strconv.Itoa(fd), err
}

// chroot makes a folder that shows everything its root, as a container does that was not given pivot_root.
func chroot(ctx context.Context, args []string) (string, error) {
	dir := args[0]
	if err := mount.BindTree(ctx, "/", dir); err != nil {
		return "", err
	}
	err := trace.Call(ctx, 0, func() string { return `chroot("` + dir + `")` }, func() error { return unix.Chroot(dir) })
	if err != nil {
		return "", err
	}
	return "", os.Chdir("/")
}
