package sealed_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/sealed"
)

// TestClone: what is opened is this very file, it cannot be written, and it is found from another mount namespace, too.
func TestClone(t *testing.T) {
	coursetest.NeedRoot(t)
	for name, enter := range map[string]func() error{
		"where it was executed": func() error { return nil },
		"in another namespace":  func() error { return unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS) },
	} {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread() // and never unlocked: the thread ends with the test's goroutine
			if err := enter(); err != nil {
				t.Fatal(err)
			}
			fd, err := sealed.Clone()
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), "clone")
			defer f.Close()
			ours, err := os.Stat(sealed.Self)
			if err != nil {
				t.Fatal(err)
			}
			if found, err := f.Stat(); err != nil || !os.SameFile(ours, found) {
				t.Errorf("Clone() opens %v, %v; want our own file", found, err)
			}
			if err := sealed.Lock(fd); err != nil {
				t.Fatal(err)
			}
			var fs syscall.Statfs_t
			if err := syscall.Fstatfs(fd, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
				t.Errorf("after Lock the mount's flags are %#x, %v; want it read-only", fs.Flags, err)
			}
		})
	}
}
