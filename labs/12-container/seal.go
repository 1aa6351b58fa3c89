package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
)

// Seal returns an open file through which nslab can execute itself so that nobody can ever write to it: nil where it was
// started in that way already. Use it as /proc/<our pid>/fd/<number>.
//
// A container that is asked to run /proc/self/exe runs nslab's own file, and may keep a descriptor of it. As soon as the
// last process that executes it has ended, root inside could open that for writing and replace the host's nslab
// (CVE-2019-5736). The remedy is to execute the file through a mount that is read-only and that no path leads to: whoever
// gets at the file from inside gets it through that mount. This costs two system calls; runc used to copy itself into memory
// at every start.
func Seal(ctx context.Context) (*os.File, error) {
	const self = "/proc/self/exe"
	var fs unix.Statfs_t
	if err := unix.Statfs(self, &fs); err != nil {
		return nil, fmt.Errorf("12-container: look at nslab's own file: %w", err)
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return nil, nil
	}
	tree, err := mount.Clone(ctx, self, false)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return sealedCopy(self) // an ordinary user may not clone mounts
	}
	if err != nil {
		return nil, err
	}
	if err := mount.SetAttr(ctx, tree, false, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, 0); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}

// sealedCopy copies the file into memory, and seals that. A copy that cannot be written needs none: the file belongs to
// somebody else, whom nobody inside can become.
func sealedCopy(self string) (_ *os.File, err error) {
	if unix.Faccessat(unix.AT_FDCWD, self, unix.W_OK, unix.AT_EACCESS) != nil {
		return nil, nil
	}
	if sealed(self) {
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

func sealed(name string) bool {
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
