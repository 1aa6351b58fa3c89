package setns

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs f on a thread that shares its root and working folder with no other (CLONE_FS), as the kernel requires of one
// that changes its mount namespace: so f may call [Setns] with CLONE_NEWNS, or unshare(2), and nobody else notices. The thread
// ends with f. What f has opened stays open.
//
// It is never the first thread of the process: that one is what /proc/self means, and Go does not end it.
func OnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // unlocked only below: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			err := OnThread(f) // while this one is taken, it is another
			runtime.UnlockOSThread()
			done <- err
			return
		}
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("06-setns: leave the other threads' root: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
