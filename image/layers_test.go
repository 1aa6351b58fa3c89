package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	mount "github.com/nslab/nslab/labs/02-mount"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// commit puts a layer on an image.
func commit(t testing.TB, s *Store, base *Image, layer []byte, names ...string) *Image {
	t.Helper()
	i, err := s.Commit(context.Background(), base, writer(layer), CommitOptions{Names: names})
	must(t, err)
	return i
}

// view lists the files of a folder, with what is in them.
func view(t testing.TB, dir string) string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		text, err := os.ReadFile(name)
		all = append(all, rel+"="+string(text))
		return err
	}))
	return strings.Join(all, " ")
}

// mounted shows an image's layers as a driver does.
func mounted(t testing.TB, s *Store, i *Image, d unionfs.Driver) string {
	t.Helper()
	lower, err := s.Layers(context.Background(), i, d)
	must(t, err)
	dir := t.TempDir()
	u, err := unionfs.Mount(context.Background(), d, unionfs.Layers{Lower: lower}, dir)
	must(t, err)
	defer func() { must(t, u.Unmount(context.Background())) }()
	return view(t, dir)
}

// private gives the test a mount namespace of its own.
func private(t *testing.T) {
	t.Helper()
	coursetest.NeedRoot(t)
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	must(t, mount.Unshare(t.Context()))
	must(t, mount.PrivateTree(t.Context(), "/"))
}

// TestLayers: whatever takes the layers together shows what the image's author has meant.
func TestLayers(t *testing.T) {
	private(t)
	s := newStore(t)
	base := commit(t, s, nil, tarOf(t, file{"d/a", "1"}, file{"d/b", "1"}, file{"e/x", "1"}, file{"f", "1"}, file{"g/h", "1"}))
	second := commit(t, s, base, tarOf(t, file{"d/.wh.a", ""}, file{"e/.wh..wh..opq", ""}, file{"e/y", "2"}, file{"f", "2"}, file{".wh.g", ""}))
	third := commit(t, s, second, tarOf(t, file{"g/", ""}, file{"g/new", "3"}, file{".wh.f", ""}, file{"d/.wh.b", ""}, file{"d/b", "3"}), "third")
	fresh := commit(t, s, third, tarOf(t, file{".wh..wh..opq", ""}, file{"only", "4"}))
	for _, d := range []unionfs.Driver{unionfs.Overlay, unionfs.AufsFUSE} {
		for i, want := range map[*Image]string{
			base: "d/a=1 d/b=1 e/x=1 f=1 g/h=1", second: "d/b=1 e/y=2 f=2", third: "d/b=3 e/y=2 g/new=3", fresh: "only=4",
		} {
			if got := mounted(t, s, i, d); got != want {
				t.Errorf("%s: %q; want %q", d, got, want)
			}
		}
	}
	lower, err := s.Layers(t.Context(), fresh, unionfs.Overlay)
	if err != nil || len(lower) != 1 {
		t.Errorf("layers = %v, %v; want only the top one, which hides the others", lower, err)
	}
	// The same from the blobs, aufs's form first.
	must(t, removeTree(s.layers()))
	for _, d := range []unionfs.Driver{unionfs.AufsFUSE, unionfs.Overlay} {
		if got, want := mounted(t, s, third, d), "d/b=3 e/y=2 g/new=3"; got != want {
			t.Errorf("%s, unpacked anew: %q; want %q", d, got, want)
		}
	}
	plain, err := s.Layers(t.Context(), base, unionfs.AufsFUSE)
	if err != nil || !strings.HasSuffix(plain[0], "/diff") {
		t.Errorf("layers = %v, %v; want the folder that overlay has: nothing is taken away in it", plain, err)
	}
	if _, err := s.Layers(t.Context(), base, "zfs"); !errors.Is(err, unionfs.ErrUnknownDriver) {
		t.Errorf("layers for zfs: %v", err)
	}
}

// TestLayersProperty compares random layers, mounted, with a plain model of what a layer does.
func TestLayersProperty(t *testing.T) {
	private(t)
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 99))
		s := newStore(t)
		model := map[string]string{}
		var i *Image
		for n := range 4 {
			i = commit(t, s, i, randomLayer(t, r, model, string(rune('0'+n))))
		}
		var all []string
		for name, text := range model {
			all = append(all, name+"="+text)
		}
		slices.Sort(all)
		for _, d := range []unionfs.Driver{unionfs.Overlay, unionfs.AufsFUSE} {
			got := strings.Fields(mounted(t, s, i, d))
			slices.Sort(got)
			if !slices.Equal(got, all) {
				t.Errorf("seed %d, %s: %q; want %q", seed, d, got, all)
			}
		}
	}
}

// randomLayer changes the model, and returns the layer that does the same.
func randomLayer(t *testing.T, r *rand.Rand, model map[string]string, text string) []byte {
	below := map[string]string{}
	for name, text := range model {
		below[name] = text
	}
	dirs := []string{"", "p/", "p/q/", "s/"}
	own := map[string]bool{}
	var list []file
	under := func(m map[string]string, dir string, f func(string)) {
		for name := range m {
			if strings.HasPrefix(name, dir) {
				f(name)
			}
		}
	}
	for range 8 {
		dir := dirs[r.IntN(len(dirs))]
		name := dir + string(rune('a'+r.IntN(3)))
		switch r.IntN(4) {
		case 0, 1:
			if !own[name] {
				list = append(list, file{name, text})
				model[name], own[name] = text, true
			}
		case 2: // a whiteout is about the layers below only
			if _, is := below[name]; !is { // nobody takes away what is not there
				continue
			}
			list = append(list, file{dir + ".wh." + filepath.Base(name), ""})
			if !own[name] {
				delete(model, name)
			}
		case 3:
			if dir != "" {
				list = append(list, file{dir + ".wh..wh..opq", ""})
				under(below, dir, func(n string) {
					if !own[n] {
						delete(model, n)
					}
				})
			}
		}
	}
	return tarOf(t, list...)
}

// TestPacked: what tar packs comes out as it was: owners, modes, times, links, devices, long names, holes.
func TestPacked(t *testing.T) {
	coursetest.NeedRoot(t)
	s := newStore(t)
	long := strings.Repeat("long-", 40)
	headers := []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 3, Gid: 4},
		{Name: "./d/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 10, Gid: 11},
		{Name: "./d/" + long, Typeflag: tar.TypeReg, Mode: 0o4711, Uid: 1 << 30, Gid: 12, Size: 3, PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.opaque": "y"}},
		{Name: "./d/hard", Typeflag: tar.TypeLink, Linkname: "./d/" + long},
		{Name: "./d/soft", Typeflag: tar.TypeSymlink, Linkname: "/nowhere/" + long, Uid: 7},
		{Name: "./d/fifo", Typeflag: tar.TypeFifo, Mode: 0o640},
		{Name: "./d/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: "./d/disk", Typeflag: tar.TypeBlock, Mode: 0o660, Gid: 6, Devmajor: 8, Devminor: 300},
	}
	i := importTar(t, s, tarWith(t, headers, func(int) string { return "abc" }))
	dirs, err := s.Layers(t.Context(), i, unionfs.Overlay)
	must(t, err)
	for _, h := range headers {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dirs[0], h.Name), &st))
		if h.Typeflag == tar.TypeLink {
			h = headers[2]
		}
		mode := uint32(h.Mode)
		if h.Typeflag == tar.TypeSymlink {
			mode = 0o777
		}
		if st.Mode&0o7777 != mode || int(st.Uid) != h.Uid || int(st.Gid) != h.Gid || st.Mtim.Sec != h.ModTime.Unix() && !h.ModTime.IsZero() {
			t.Errorf("%s: %o %d:%d; want %o %d:%d", h.Name, st.Mode&0o7777, st.Uid, st.Gid, h.Mode, h.Uid, h.Gid)
		}
		if h.Devmajor != 0 && (unix.Major(st.Rdev) != uint32(h.Devmajor) || unix.Minor(st.Rdev) != uint32(h.Devminor)) {
			t.Errorf("%s: device %d:%d; want %d:%d", h.Name, unix.Major(st.Rdev), unix.Minor(st.Rdev), h.Devmajor, h.Devminor)
		}
	}
	buf := make([]byte, 200)
	n, err := unix.Llistxattr(filepath.Join(dirs[0], "d", long), buf)
	if string(buf[:max(n, 0)]) != "user.a\x00" || err != nil {
		t.Errorf("attributes %q, %v; want user.a alone", buf[:max(n, 0)], err)
	}
	if st, err := os.Stat(filepath.Dir(dirs[0])); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the layer's own folder is %v, %v; want it closed to others", st.Mode(), err)
	}
}

// TestCommit: a layer on top, a change without a layer, and neither.
func TestCommit(t *testing.T) {
	s := newStore(t)
	base := importTar(t, s, tarOf(t, file{"a", "1"}), "base")
	if _, err := s.Commit(t.Context(), base, func(w io.Writer) error { return errors.New("no layer today") }, CommitOptions{}); err == nil || err.Error() != "no layer today" {
		t.Errorf("commit = %v; want the writer's error", err)
	}
	_, err := s.Commit(t.Context(), base, func(w io.Writer) error {
		_, err := s.Remove("base", RemoveOptions{}) // by somebody else, at this moment
		return errors.Join(err, writer(tarOf(t, file{"b", "22"}))(w))
	}, CommitOptions{})
	if got := content(t, s); !errors.Is(err, fs.ErrNotExist) || len(got) != 2 {
		t.Errorf("commit on an image that is being removed: %v, and the store has %q; want an error, and no image", err, got)
	}
	base = importTar(t, s, tarOf(t, file{"a", "1"}), "base")
	top, err := s.Commit(t.Context(), base, writer(tarOf(t, file{"b", "22"})), CommitOptions{
		Names: []string{"top"}, Author: "me", Message: "why", CreatedBy: "sh -c x", Changes: []string{"ENV A=b"},
	})
	must(t, err)
	set, err := s.Commit(t.Context(), top, nil, CommitOptions{CreatedBy: "ENV B=c", Changes: []string{"ENV B=c"}})
	must(t, err)
	set, err = s.Resolve(set.ID)
	must(t, err)
	if h := set.Config.History; len(h) != 3 || h[1].CreatedBy != "sh -c x" || h[1].Comment != "why" || !h[2].EmptyLayer || h[1].EmptyLayer {
		t.Errorf("history: %+v", h)
	}
	if env := set.Config.Config.Env; !slices.Equal(env, []string{"A=b", "B=c"}) || set.Config.Author != "me" || set.Parent != top.ID || top.Parent != base.ID {
		t.Errorf("env %q, author %q, parents %q %q", env, set.Config.Author, set.Parent, top.Parent)
	}
	sizes, err := s.Sizes(set)
	if err != nil || !slices.Equal(sizes, []int64{1, 2}) || len(base.Config.RootFS.DiffIDs) != 1 {
		t.Errorf("sizes %v, %v; base has %d layers", sizes, err, len(base.Config.RootFS.DiffIDs))
	}
	var out bytes.Buffer
	for _, dir := range s.Folders(set) {
		out.WriteString(view(t, dir) + " ")
	}
	if out.String() != "a=1 b=22 " {
		t.Errorf("folders hold %q", out.String())
	}
}
