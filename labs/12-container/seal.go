package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/sealed"
	"github.com/nslab/nslab/trace"
)

// Seal returns an open file through which nslab can execute itself so that nobody can ever write to it (CVE-2019-5736, see
// package sealed): nil where it was started in that way already. Use it as /proc/<our pid>/fd/<number>.
func Seal(ctx context.Context) (*os.File, error) {
	already, err := sealed.Already()
	if err != nil {
		return nil, fmt.Errorf("12-container: look at nslab's own file: %w", err)
	}
	if already {
		return nil, nil
	}
	fd := -1
	err = trace.Call(ctx, 0,
		func() string {
			return fmt.Sprintf("open_tree(AT_FDCWD, %q, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC) = %d", sealed.Self, fd)
		},
		func() (err error) { fd, err = sealed.Clone(); return err })
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return sealedCopy(sealed.Self) // an ordinary user may not clone mounts
	}
	if err != nil {
		return nil, fmt.Errorf("12-container: clone the mount of nslab's own file: %w", err)
	}
	tree := os.NewFile(uintptr(fd), sealed.Self)
	err = trace.Call(ctx, 0,
		func() string {
			return fmt.Sprintf(`mount_setattr(%d, "", AT_EMPTY_PATH, {attr_set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV})`, fd)
		},
		func() error { return sealed.Lock(fd) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("12-container: seal nslab's own file: %w", err), tree.Close())
	}
	return tree, nil
}

// sealedCopy copies the file into memory, and seals that. A copy that cannot be written needs none: the file belongs to
// somebody else, whom nobody inside can become.
func sealedCopy(self string) (_ *os.File, err error) {
	if unix.Faccessat(unix.AT_FDCWD, self, unix.W_OK, unix.AT_EACCESS) != nil {
		return nil, nil
	}
	if isSealed(self) {
		return nil, nil
	}
	from, err := os.Open(self)
	if err != nil {
		return nil, fmt.Errorf("12-container: copy nslab's own file: %w", err)
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("nslab", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all may be executed
		fd, err = unix.MemfdCreate("nslab", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("12-container: copy nslab's own file: %w", err)
	}
	to := os.NewFile(uintptr(fd), "nslab")
	defer func() {
		if err != nil {
			err = errors.Join(err, to.Close())
		}
	}()
	if _, err := to.ReadFrom(from); err != nil {
		return nil, fmt.Errorf("12-container: copy nslab's own file: %w", err)
	}
	if _, err := unix.FcntlInt(to.Fd(), unix.F_ADD_SEALS, allSeals); err != nil {
		return nil, fmt.Errorf("12-container: seal the copy of nslab's file: %w", err)
	}
	// A descriptor that is open for writing cannot be executed (ETXTBSY).
	reopened, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", to.Fd()))
	if err != nil {
		return nil, fmt.Errorf("12-container: open the copy of nslab's file: %w", err)
	}
	to.Close()
	to = nil
	return reopened, nil
}

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

func isSealed(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && have&allSeals == allSeals
}

// SealedPath is what to execute to be nslab once more, sealed; done lets go of it once the child has been started.
func SealedPath(ctx context.Context) (path string, done func() error, err error) {
	f, err := Seal(ctx)
	if err != nil {
		return "", nil, err
	}
	if f == nil {
		return "/proc/self/exe", func() error { return nil }, nil
	}
	// By our number: in the child, descriptors are rearranged before it executes.
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), f.Close, nil
}
