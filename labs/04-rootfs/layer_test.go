package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
)

// fileMarks marks with ordinary files: -NAME for a whiteout, "-" in an opaque folder.
type fileMarks struct{}

func (fileMarks) path(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/-%s", dir.Fd(), name)
}

func (m fileMarks) Whiteout(_ context.Context, dir *os.File, name string) error {
	return os.WriteFile(m.path(dir, name), nil, 0o600)
}

func (m fileMarks) Reveal(_ context.Context, dir *os.File, name string) error {
	return os.Remove(m.path(dir, name))
}

func (m fileMarks) Opaque(_ context.Context, dir *os.File) error {
	return os.WriteFile(m.path(dir, ""), nil, 0o600)
}

// packed writes headers as a tar. A file holds its own name.
func packed(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(h.Name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			w.Write([]byte(h.Name))
		}
	}
	must(t, w.Close())
	return &buf
}

func unpackLayer(t *testing.T, r io.Reader, limits Limits) (dir string, u Unpacked, err error) {
	t.Helper()
	dir = t.TempDir()
	tree, openErr := OpenTree(t.Context(), dir)
	must(t, openErr)
	defer tree.Close()
	u, err = UnpackLayer(t.Context(), tree, r, fileMarks{}, limits)
	return dir, u, err
}

// listTree names what is in a folder: files, folders with a slash, links with a target.
func listTree(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if name == dir || err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		switch {
		case e.IsDir():
			rel += "/"
		case e.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(name)
			rel += ">" + target
		}
		names = append(names, rel)
		return nil
	}))
	return strings.Join(names, " ")
}

func TestLayerMarks(t *testing.T) {
	link := func(name, target string) tar.Header {
		return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}
	}
	for name, c := range map[string]struct {
		in   []tar.Header
		want string
	}{
		"whiteout":               {[]tar.Header{{Name: "etc/.wh.motd"}}, "etc/ etc/-motd"},
		"twice":                  {[]tar.Header{{Name: ".wh.a"}, {Name: ".wh.a"}}, "-a"},
		"then a file":            {[]tar.Header{{Name: ".wh.a"}, {Name: "a"}}, "a"},
		"after a file":           {[]tar.Header{{Name: "a"}, {Name: ".wh.a"}}, "a"},
		"then a link":            {[]tar.Header{{Name: ".wh.a"}, link("a", "b")}, "a>b"},
		"then a folder":          {[]tar.Header{{Name: ".wh.a"}, {Name: "a/"}, {Name: "a/b"}}, "a/ a/- a/b"},
		"after a folder":         {[]tar.Header{{Name: "a/b"}, {Name: ".wh.a"}}, "a/ a/- a/b"},
		"opaque first":           {[]tar.Header{{Name: "a/.wh..wh..opq"}, {Name: "a/b"}}, "a/ a/- a/b"},
		"opaque last":            {[]tar.Header{{Name: "a/b"}, {Name: "a/.wh..wh..opq"}}, "a/ a/- a/b"},
		"the root":               {[]tar.Header{{Name: ".wh..wh..opq"}, {Name: "b"}}, "- b"},
		"below opaque":           {[]tar.Header{{Name: "a/b/.wh.c"}, {Name: "a/.wh.d"}, {Name: "a/.wh..wh..opq"}, {Name: "a/b/e"}}, "a/ a/- a/b/ a/b/e"},
		"aufs's own":             {[]tar.Header{{Name: ".wh..wh.plnk/"}, {Name: ".wh..wh.plnk/1.2"}, {Name: ".wh..wh.aufs"}, {Name: "b"}}, "b"},
		"a link of aufs's":       {[]tar.Header{{Name: ".wh.a", Typeflag: tar.TypeLink, Linkname: ".wh..wh.aufs"}}, "-a"},
		"in the middle of names": {[]tar.Header{{Name: "a.wh.b"}, {Name: "x.wh./c"}}, "a.wh.b x.wh./ x.wh./c"},
		"with dots in front":     {[]tar.Header{{Name: "./"}, {Name: "./.wh.a"}, {Name: "./b"}}, "-a b"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, u, err := unpackLayer(t, packed(t, c.in...), TheLimits())
			if got := listTree(t, dir); got != c.want || err != nil {
				t.Errorf("layer = %q, %v; want %q", got, err, c.want)
			}
			if marked := strings.Contains(" "+strings.ReplaceAll(c.want, "/", " "), " -"); marked != (u.Marks > 0) {
				t.Errorf("marks = %d", u.Marks)
			}
			if u.Opaque != (name == "the root") {
				t.Errorf("opaque = %v", u.Opaque)
			}
		})
	}
}

// TestLowestLayer: the lowest layer has nothing to take away, and still no files that are called like marks.
func TestLowestLayer(t *testing.T) {
	dir := t.TempDir()
	tree, err := OpenTree(t.Context(), dir)
	must(t, err)
	defer tree.Close()
	in := packed(t, tar.Header{Name: ".wh.a"}, tar.Header{Name: "d/.wh..wh..opq"}, tar.Header{Name: "d/b"}, tar.Header{Name: ".wh..wh..opq"}, tar.Header{Name: "a"})
	u, err := UnpackLayer(t.Context(), tree, in, nil, TheLimits())
	if got := listTree(t, dir); got != "a d/ d/b" || err != nil || u.Marks != 0 || u.Opaque {
		t.Errorf("layer = %q, %+v, %v", got, u, err)
	}
}

func TestLayerRefusals(t *testing.T) {
	deep := strings.Repeat("d/", 8)
	for name, c := range map[string]struct {
		in   []tar.Header
		want string // in the error
	}{
		"dots":                 {[]tar.Header{{Name: "a/../../b"}}, "leads upwards"},
		"absolute":             {[]tar.Header{{Name: "/etc/passwd"}}, "absolute"},
		"whiteout of ..":       {[]tar.Header{{Name: "a/.wh..."}}, `whiteout of ".."`},
		"whiteout of .":        {[]tar.Header{{Name: ".wh.."}}, `whiteout of "."`},
		"whiteout of nothing":  {[]tar.Header{{Name: ".wh."}}, `whiteout of ""`},
		"whiteout as folder":   {[]tar.Header{{Name: ".wh.a/b"}}, "folder with the name of a whiteout"},
		"whiteout as link":     {[]tar.Header{{Name: ".wh.a", Typeflag: tar.TypeSymlink, Linkname: "x"}}, "empty file"},
		"hard link out":        {[]tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "../b"}}, "out of the layer"},
		"absolute hard link":   {[]tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, "out of the layer"},
		"hard link to nothing": {[]tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}}, "other name /b"},
		"0:0":                  {[]tar.Header{{Name: "a", Typeflag: tar.TypeChar}}, "device 0:0"},
		"device number":        {[]tar.Header{{Name: "a", Typeflag: tar.TypeChar, Devmajor: 4097}}, "device 4097:0"},
		"owner":                {[]tar.Header{{Name: "a", Uid: 1<<32 - 1, Format: tar.FormatPAX}}, "owner 4294967295"},
		"devices":              {[]tar.Header{{Name: "a", Typeflag: tar.TypeFifo}, {Name: "b", Typeflag: tar.TypeBlock, Devmajor: 7}, {Name: "c", Typeflag: tar.TypeBlock, Devmajor: 7}}, "more than 1 devices"},
		"depth":                {[]tar.Header{{Name: deep}}, "folders deep"},
		"depth by links": {[]tar.Header{{Name: "d/d/d/d/"}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d/d/d/d"},
			{Name: "l/d/d/d/"}, {Name: "l/d/d/d/d"}}, "folders deep"},
		"entries":           {slices.Repeat([]tar.Header{{Name: "a"}}, 11), "more than 10 entries"},
		"bytes":             {[]tar.Header{{Name: "a" + strings.Repeat("b", 90)}}, "more than 90 bytes"},
		"memory":            {[]tar.Header{{Name: "x/"}, {Name: "y/"}, {Name: "z/"}, {Name: "w/"}}, "bytes of names"},
		"file under a file": {[]tar.Header{{Name: "a"}, {Name: "a/b"}}, "not a directory"},
		"file for a folder": {[]tar.Header{{Name: "a/b"}, {Name: "a"}}, "a folder with files in it"},
		"through a link":    {[]tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/nowhere"}, {Name: "l/a"}}, "in the layer"},
		"unknown type":      {[]tar.Header{{Name: "a", Typeflag: 'Z'}}, "type 'Z'"},
	} {
		t.Run(name, func(t *testing.T) {
			limits := Limits{Entries: 10, Bytes: 90, Devices: 1, Depth: 6, Memory: 400}
			_, _, err := unpackLayer(t, packed(t, c.in...), limits)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error = %v; want one line with %q", err, c.want)
			}
		})
	}
}

// TestLayerCut: a tar that ends too early is seen, wherever that is.
func TestLayerCut(t *testing.T) {
	whole := packed(t, tar.Header{Name: "d/"}, tar.Header{Name: "d/" + strings.Repeat("long", 60)}, tar.Header{Name: "d/b"}).Bytes()
	for n := 0; n <= len(whole); n += 32 {
		_, u, err := unpackLayer(t, bytes.NewReader(whole[:n]), TheLimits())
		ended := n >= len(whole)-1024+512 // one block of zeros will do
		switch {
		case err == nil && u.Ended != ended:
			t.Errorf("%d of %d bytes: ended = %v; want %v", n, len(whole), u.Ended, ended)
		case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Errorf("%d of %d bytes: %v; want an unexpected end", n, len(whole), err)
		case err != nil && ended && n%512 == 0:
			t.Errorf("%d of %d bytes: %v; want none", n, len(whole), err)
		}
	}
}

// TestUnpackContent: what is written by others, at their own time, is whole and in its place.
func TestUnpackContent(t *testing.T) {
	sizes := []int{0, 1, 511, 512, 4096, batchSize - 1, batchSize, batchSize + 1, 3*batchSize + 77}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	content := func(i, size int) []byte {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(i + j/7)
		}
		return b
	}
	when := time.Unix(1_400_000_000, 123_456_789)
	const rounds = 20
	for i := range rounds * len(sizes) {
		size := sizes[i%len(sizes)]
		must(t, w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i%3, i), Mode: 0o640, Size: int64(size), ModTime: when, Format: tar.FormatPAX,
			Uid: os.Getuid(), Gid: os.Getgid(),
		}))
		w.Write(content(i, size))
	}
	must(t, w.Close())
	dir, u, err := unpackLayer(t, &buf, TheLimits())
	if err != nil || u.Files != rounds*len(sizes) {
		t.Fatalf("unpacked %d files, %v", u.Files, err)
	}
	for i := range rounds * len(sizes) {
		name := fmt.Sprintf("%s/d%d/f%d", dir, i%3, i)
		got, err := os.ReadFile(name)
		st, statErr := os.Stat(name)
		if err != nil || statErr != nil || !bytes.Equal(got, content(i, sizes[i%len(sizes)])) {
			t.Fatalf("%s: %d bytes, %v %v; want %d of the packed ones", name, len(got), err, statErr, sizes[i%len(sizes)])
		}
		if st.Mode() != 0o640 || !st.ModTime().Equal(when) {
			t.Fatalf("%s: %v %v; want -rw-r----- %v", name, st.Mode(), st.ModTime(), when)
		}
	}
}

func TestUnpackSparse(t *testing.T) {
	src := t.TempDir()
	f, err := os.Create(src + "/holes")
	must(t, err)
	const size = 40 << 20
	for _, at := range []int64{5 << 20, 17<<20 + 123, size - 3} {
		_, err := f.WriteAt([]byte("ink"), at)
		must(t, err)
	}
	must(t, f.Close())
	for _, format := range []string{"gnu", "posix"} {
		archive := src + "/" + format + ".tar"
		if out, err := exec.Command("tar", "-C", src, "-S", "--format="+format, "-cf", archive, "holes").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		r, err := os.Open(archive)
		must(t, err)
		defer r.Close()
		dir, _, err := unpackLayer(t, r, TheLimits())
		must(t, err)
		want, _ := os.ReadFile(src + "/holes")
		got, err := os.ReadFile(dir + "/holes")
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the content differs", format)
		}
		var st unix.Stat_t
		must(t, unix.Stat(dir+"/holes", &st))
		if st.Size != size || st.Blocks*512 > size/10 {
			t.Errorf("%s: %d bytes in %d blocks; want %d, and holes", format, st.Size, st.Blocks, size)
		}
	}
}

// TestUnpackAttributes: what belongs to the content is kept, what is the host's is not.
func TestUnpackAttributes(t *testing.T) {
	coursetest.NeedRoot(t)
	h := tar.Header{Name: "a", Mode: 0o4755, Uid: 12, Gid: 34, PAXRecords: map[string]string{
		xattrPrefix + "user.note": "mine", xattrPrefix + "trusted.overlay.opaque": "y", xattrPrefix + "user.overlay.whiteout": "y",
		xattrPrefix + "security.selinux": "label", xattrPrefix + "trusted.other": "z",
	}}
	d := h
	d.Name, d.Mode = "d/", 0o1777
	dir, u, err := unpackLayer(t, packed(t, h, d, tar.Header{Name: "./", Mode: 0o750, Uid: 5}), TheLimits())
	if err != nil || len(u.Lost) > 0 {
		t.Fatal(u, err)
	}
	for name, mode := range map[string]fs.FileMode{"a": 0o755 | fs.ModeSetuid, "d": 0o777 | fs.ModeSticky | fs.ModeDir} {
		buf := make([]byte, 1024)
		n, err := unix.Llistxattr(filepath.Join(dir, name), buf)
		must(t, err)
		if got := string(buf[:n]); got != "user.note\x00" {
			t.Errorf("%s has attributes %q; want user.note", name, got)
		}
		st, err := os.Lstat(filepath.Join(dir, name))
		must(t, err)
		if st.Mode() != mode {
			t.Errorf("%s: %v; want %v", name, st.Mode(), mode)
		}
	}
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	if st.Mode&0o7777 != 0o750 || st.Uid != 5 {
		t.Errorf("the layer's own folder: %o of %d; want what its entry says", st.Mode, st.Uid)
	}
}

// TestUnpackFull: a full disk is an error, also where the file was written by another thread.
func TestUnpackFull(t *testing.T) {
	ctx, dir := own(t)
	small := at(t, dir, "small") + "/small"
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"))
	tree, err := OpenTree(ctx, small)
	must(t, err)
	defer tree.Close()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range 5 {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("f", i), Mode: 0o600, Size: 50_000}))
		w.Write(make([]byte, 50_000))
	}
	must(t, w.Close())
	if _, err = UnpackLayer(ctx, tree, &buf, fileMarks{}, TheLimits()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full disk: %v; want ENOSPC", err)
	}
	left, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, name := range left {
		if target, _ := os.Readlink(name); strings.HasPrefix(target, small+"/") {
			t.Errorf("%s is still open", target)
		}
	}
}
