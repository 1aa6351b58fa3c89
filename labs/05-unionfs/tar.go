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
)

// WriteTar writes the layer in dir as a layer of an OCI image: its files in a tar, and its marks as empty files called
// .wh.NAME and .wh..wh..opq, whatever form they have on disk. This is what a commit takes.
//
// The order is that of the names, so the same layer gives the same bytes. An opaque mark comes right after its folder,
// since whoever unpacks must clear the folder before the files that are new in it. Sockets are left out: no tar has them.
func WriteTar(ctx context.Context, w io.Writer, dir string, f Form) error {
	entries, err := tarEntries(dir, f)
	if err != nil {
		return err
	}
	t := &tarWriter{Writer: tar.NewWriter(w), dir: dir, links: map[[2]uint64]string{}}
	for _, e := range entries {
		if err = ctx.Err(); err != nil {
			return err
		}
		if e.file == nil {
			// A mark has neither owner nor time, so that equal layers have equal digests.
			err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name})
		} else {
			err = t.file(e.name, e.file)
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

// tarEntry is a file of the layer or, without one, a mark.
type tarEntry struct {
	name string
	file fs.DirEntry
}

// tarEntries lists what the tar will have, in its order. That cannot be the order on disk, where a whiteout has another
// name in each form.
func tarEntries(dir string, f Form) ([]tarEntry, error) {
	var list []tarEntry
	err := scan(dir, f, func(path string, m *Mark, e fs.DirEntry) error {
		reserved := path != "." && strings.HasPrefix(e.Name(), whPrefix)
		switch {
		case m != nil && !m.Opaque:
			folder, name := filepath.Split(m.Path)
			list = append(list, tarEntry{name: folder + whPrefix + name})
			return nil
		case reserved && f != AufsForm:
			return fmt.Errorf("%s: %w", path, ErrReserved)
		case reserved && e.IsDir():
			return fs.SkipDir // aufs's own
		case reserved:
			return nil
		}
		if path != "." { // the layer's own folder is not part of its content
			list = append(list, tarEntry{path, e})
		}
		if m != nil {
			list = append(list, tarEntry{name: filepath.Join(path, whOpaque)})
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

type tarWriter struct {
	*tar.Writer
	dir   string
	links map[[2]uint64]string // device and inode of files with several names → the first of them
}

func (t *tarWriter) file(path string, e fs.DirEntry) (err error) {
	full := filepath.Join(t.dir, path)
	info, err := e.Info()
	if err != nil || info.Mode()&fs.ModeSocket != 0 {
		return err
	}
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(full); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname = path, "", "" // names of users are the host's, numbers the image's
	if info.IsDir() {
		h.Name += "/"
	}
	if h.PAXRecords, err = attributes(full); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return err
	}
	if st.Nlink > 1 && info.Mode().IsRegular() {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := t.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return t.WriteHeader(h)
		}
		t.links[key] = path
	}
	if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	content, err := os.Open(full)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	_, err = io.Copy(t, content)
	return err
}

// attributes are the extended attributes that belong to the content: not those of overlay, nor of security modules but
// for file capabilities.
func attributes(path string) (map[string]string, error) {
	size, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	buf := make([]byte, size+1024)
	if err == nil {
		size, err = unix.Llistxattr(path, buf)
	}
	if err != nil {
		return nil, err
	}
	var records map[string]string
	for _, name := range strings.Split(string(buf[:size]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		value := make([]byte, 65536) // the most that an attribute may have, xattr(7)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		if records == nil {
			records = map[string]string{}
		}
		records["SCHILY.xattr."+name] = string(value[:n])
	}
	return records, nil
}
