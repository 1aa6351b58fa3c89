package pid

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// MountProc mounts a procfs for the caller's PID namespace on target, usually "/proc".
//
// A procfs shows the PID namespace of the process that *mounted* it, not of the one that reads it. So a process in a new
// PID namespace that inherited the host's /proc still reads the host's processes there, under the host's numbers, and
// even /proc/self is not what getpid(2) says. The caller must be in a mount namespace of its own whose mounts are
// private (lab 02), or the host loses its /proc to the new one.
//
// nosuid, nodev and noexec are what every distribution mounts /proc with: nothing in there is a program or a device.
// In a user namespace the kernel insists: a mount may not drop the restrictions of the one that was visible before
// (mount_namespaces(7)), and answers EPERM if part of the old /proc was covered by other mounts.
func MountProc(ctx context.Context, target string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf(`mount("proc", %q, "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC)`, target) },
		func() error { return unix.Mount("proc", target, "proc", flags, "") })
	if err != nil {
		return fmt.Errorf("mount proc on %s: %w", target, err)
	}
	return nil
}
