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
	// As on a machine where containers have had networks before, so that the first of a run need not say what it has changed there.
	// What is said, and put back, is the subject of a scenario that makes a machine of its own.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("a network namespace for the tests: %w", err)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inPrivateMounts+"=1"))
}
