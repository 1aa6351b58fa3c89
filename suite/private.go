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

// PrivateMounts executes the program again in namespaces of its own: a script that leaks a mount does not leak it to the machine,
// bridges, rules and ports of scripts are none of the machine's, and a stage that is broken on purpose renames no host. In there,
// and without root, it does nothing.
func PrivateMounts() error {
	if os.Geteuid() != 0 || os.Getenv(inPrivateMounts) != "" {
		return nil
	}
	if err := unshareMachine(); err != nil { // exec makes this thread the process
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inPrivateMounts+"=1"))
}

// ownMachine gives a script namespaces like that, where the suite has them. Scripts run at the same time, and many compare the
// machine's mounts and links before and after: what another one mounts meanwhile on purpose is a difference to them. The
// namespaces are the thread's, and its children's: all commands of a script are started by one goroutine, which keeps the
// thread for itself from here on. The thread ends with it.
func ownMachine() error {
	if os.Getenv(inPrivateMounts) == "" {
		return nil
	}
	return unshareMachine()
}

// unshareMachine gives this thread mounts, a network and a host name of its own, and keeps the goroutine on it.
func unshareMachine() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("namespaces for the tests: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("a mount namespace for the tests: %w", err)
	}
	// A name that no scenario gives to a container: the machine may be called "box".
	if err := unix.Sethostname([]byte("nslab-test-host")); err != nil {
		return fmt.Errorf("namespaces for the tests: %w", err)
	}
	if err := network.LoopbackUp(context.Background()); err != nil {
		return err
	}
	// As on a machine where containers have had networks before, so that the first of a run need not say what it has changed there.
	// What is said, and put back, is the subject of a scenario that makes a machine of its own.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("a network namespace for the tests: %w", err)
	}
	return nil
}
