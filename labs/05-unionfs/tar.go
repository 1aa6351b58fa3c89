package unionfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// WriteTar writes the layer in dir as a layer of an OCI image: its files in a tar, and its marks as empty files called
// .wh.NAME and .wh..wh..opq, whatever form they have on disk. This is what a commit takes.
//
// The order is that of the names, so the same layer gives the same bytes. An opaque mark comes right after its folder,
// since whoever unpacks must clear the folder before the files that are new in it. Sockets are left out: no tar has them.
func WriteTar(ctx context.Context, w io.Writer, dir string, f Form) error {
	return WriteTarExcept(ctx, w, dir, f, nil)
}

// WriteTarExcept is [WriteTar] without the files and whiteouts that except names, by their paths in the layer.
//
// The layer may be in use: [rootfs.Packer] says what that means, and why no link of it is ever followed.
func WriteTarExcept(ctx context.Context, w io.Writer, dir string, f Form, except func(path string) bool) error {
	entries, err := tarEntries(dir, f)
	if err != nil {
		return err
	}
	root, err := openPath(dir)
	if err != nil {
		return fmt.Errorf("05-unionfs: open layer %s: %w", dir, err)
	}
	defer root.Close()
	t := rootfs.NewPacker(w)
	if os.Geteuid() != 0 {
		t.Owner = &[2]int{0, 0} // an ordinary user's container has one user, root, who is he himself outside
	}
	for _, e := range entries {
		if err = ctx.Err(); err != nil {
			return err
		}
		if except != nil && except(e.path) {
			continue
		}
		if e.mark {
			// A mark has neither owner nor time, so that equal layers have equal digests.
			err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name})
		} else {
			err = addEntry(ctx, t, root, e)
		}
		if err != nil {
			return fmt.Errorf("05-unionfs: write layer %s as a tar: %s: %w", dir, e.name, err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("05-unionfs: end the tar of %s: %w", dir, err)
	}
	return nil
}

// addEntry writes a file of the layer, if it is still there.
func addEntry(ctx context.Context, t *rootfs.Packer, root *os.File, e tarEntry) error {
	fd, err := unix.Openat2(int(root.Fd()), e.path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	switch {
	case changed(err), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EAGAIN):
		return nil // it is gone, or a folder on the way is a link by now, or was moved out of the layer
	case err != nil:
		return err
	}
	file := os.NewFile(uintptr(fd), e.path)
	return errors.Join(t.Add(ctx, file, e.name), file.Close())
}

// tarEntry is a file of the layer, or a mark in it.
type tarEntry struct {
	name string // in the tar
	path string // in the layer; of a mark, what it is about
	mark bool
}

// tarEntries lists what the tar will have, in its order. That cannot be the order on disk, where a whiteout has another
// name in each form.
func tarEntries(dir string, f Form) ([]tarEntry, error) {
	var list []tarEntry
	err := scan(dir, f, func(path string, m *Mark, st *unix.Stat_t) error {
		reserved := strings.HasPrefix(filepath.Base(path), whPrefix)
		switch {
		case m != nil && !m.Opaque:
			folder, name := filepath.Split(m.Path)
			list = append(list, tarEntry{folder + whPrefix + name, m.Path, true})
			return nil
		case reserved && f != AufsForm:
			return fmt.Errorf("%s: %w", path, ErrReserved)
		case reserved && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			return fs.SkipDir // aufs's own
		case reserved:
			return nil
		}
		if path != "." { // the layer's own folder is not part of its content
			list = append(list, tarEntry{path, path, false})
		}
		if m != nil {
			list = append(list, tarEntry{filepath.Join(path, whOpaque), path, true})
		}
		return nil
	})
	slices.SortFunc(list, func(a, b tarEntry) int { return slices.Compare(tarKey(a.name), tarKey(b.name)) })
	return list, err
}

// tarKey sorts a folder before what it holds, and its opaque mark before everything else in it.
func tarKey(name string) []string {
	key := strings.Split(name, "/")
	if last := len(key) - 1; key[last] == whOpaque {
		key[last] = ""
	}
	return key
}
