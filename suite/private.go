package suite

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	network "github.com/nslab/nslab/labs/09-network"
)

// inPrivateMounts marks a process that already is in a mount namespace of its own.
const inPrivateMounts = "NSLAB_TEST_PRIVATE_MOUNTS"

// PrivateMounts executes the program again in a mount namespace and a network namespace of its own, so that a script that leaks
// a mount does not leak it to the machine, and bridges, rules and ports of scripts are none of the machine's. In there, and
// without root, it does nothing.
func PrivateMounts() error {
	if os.Geteuid() != 0 || os.Getenv(inPrivateMounts) != "" {
		return nil
	}
	runtime.LockOSThread() // unshare is for the thread, and exec makes this thread the process
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("a mount namespace for the tests: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("a mount namespace for the tests: %w", err)
	}
	if err := network.LoopbackUp(context.Background()); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inPrivateMounts+"=1"))
}
