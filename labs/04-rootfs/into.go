package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Rules are what an [Unpack] into a folder that has files already is to spare.
type Rules struct {
	// KeepKinds: no folder is replaced by a file and no file, or link, by a folder. Then what the tar has is never put where
	// a link leads.
	KeepKinds bool
	// NoDevices leaves out devices, and NoRights what would lend somebody else's rights to whoever executes a file: the
	// set-user-ID and set-group-ID bits and capabilities. Both are counted in Lost.
	NoDevices, NoRights bool
	// Change, if it is not nil, is shown every entry first, and may change its owner, mode and time, or refuse it.
	Change func(*tar.Header) error
	Limits Limits // depth and memory are limited in any case
}

// UnpackInto is [Unpack] with rules. What they do not limit is not limited: the files may be the caller's own.
func UnpackInto(ctx context.Context, t *Tree, r io.Reader, rules Rules) (Unpacked, error) {
	limits, always := rules.Limits, TheLimits()
	limits.Depth, limits.Memory = always.Depth, always.Memory
	return unpack(ctx, &unpacker{t: t, rules: rules, limits: limits}, r)
}

// create makes something under a name that may be taken. What has it is removed, and never looked into.
func (u *unpacker) create(at int, base string, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := u.remove(at, base); err != nil {
		return err
	}
	return make()
}

// What [Rules].KeepKinds refuses.
var (
	ErrFolderInPlace = errors.New("cannot overwrite directory with non-directory")
	ErrFileInPlace   = errors.New("cannot overwrite non-directory with directory")
)

func (u *unpacker) remove(at int, base string) error {
	err := unix.Unlinkat(at, base, 0)
	if errors.Is(err, unix.EISDIR) && u.rules.KeepKinds {
		return ErrFolderInPlace
	}
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		if err = unix.Unlinkat(at, base, unix.AT_REMOVEDIR); errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("a folder with files in it has this name: %w", unix.EEXIST)
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
