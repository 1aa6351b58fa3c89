package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	mount "github.com/nslab/nslab/labs/02-mount"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// bomb is a tar with a file of zeros.
func bomb(w io.Writer, size int64) error {
	t := tar.NewWriter(w)
	err := t.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o600, Size: size})
	if err == nil {
		_, err = io.CopyN(t, zeros{}, size)
	}
	return errors.Join(err, t.Close())
}

// TestHostile: each of these is refused with one line, and the store is as it was.
func TestHostile(t *testing.T) {
	entry := func(h tar.Header) []byte {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		return tarWith(t, []tar.Header{h}, nil)
	}
	good := tarOf(t, file{"a", "text"}, file{"b", "text"})
	var tight bytes.Buffer
	z := gzip.NewWriter(&tight)
	must(t, bomb(z, 3*freeRatio/2))
	must(t, z.Close())
	var wide bytes.Buffer
	zw, err := zstd.NewWriter(&wide, zstd.WithWindowSize(256<<20), zstd.WithSingleSegment(false))
	must(t, err)
	_, err = zw.Write(make([]byte, 300<<20))
	must(t, errors.Join(err, zw.Close()))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"dots":                {entry(tar.Header{Name: "../../etc/passwd"}), `unpack "../../etc/passwd": the name leads upwards`},
		"absolute":            {entry(tar.Header{Name: "/etc/passwd"}), "the name is absolute"},
		"whiteout of dots":    {entry(tar.Header{Name: "a/.wh..."}), `whiteout of ".."`},
		"whiteout of itself":  {entry(tar.Header{Name: ".wh.."}), `whiteout of "."`},
		"whiteout of nothing": {entry(tar.Header{Name: ".wh."}), `whiteout of ""`},
		"hard link":           {entry(tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../../../etc/shadow"}), "leads out of the layer"},
		"mark as device":      {entry(tar.Header{Name: "a", Typeflag: tar.TypeChar}), "device 0:0 is how a whiteout looks on disk"},
		"devices": {tarWith(t, slices.Collect(func(yield func(tar.Header) bool) {
			for n := range 5000 {
				if !yield(tar.Header{Name: fmt.Sprint("d/", n), Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}) {
					return
				}
			}
		}), nil), "more than 4096 devices"},
		"depth":          {entry(tar.Header{Name: strings.Repeat("d/", 1500) + "f"}), "more than 1024 folders deep"},
		"owner":          {tarWith(t, []tar.Header{{Name: "a", Typeflag: tar.TypeReg, Uid: 1<<32 - 1}}, nil), "owner 4294967295:0"},
		"device number":  {entry(tar.Header{Name: "a", Typeflag: tar.TypeChar, Devmajor: 1 << 20, Devminor: 1}), "device 1048576:1"},
		"through a link": {tarWith(t, []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "l/passwd", Typeflag: tar.TypeReg}}, nil), "no such file or directory"},
		"gzip bomb":      {tight.Bytes(), "grows more than 200 times"},
		"zstd window":    {wide.Bytes(), "window size exceeded"},
		"cut":            {good[:700], "unexpected EOF"},
		"no end":         {good[:2048], "it was cut off"},
		"cut gzip":       {gzipped(t, good)[:60], "unexpected EOF"},
		"cut zstd":       {zstded(t, good)[:60], "unexpected EOF"},
		"broken gzip":    {slices.Concat(gzipped(t, good)[:len(gzipped(t, good))-8], make([]byte, 8)), "checksum"},
		"behind gzip":    {slices.Concat(gzipped(t, good), []byte("rubbish that is no gzip")), "gzip: invalid header"},
		"text":           {[]byte(strings.Repeat("this is no tar\n", 100)), "this is no tar archive"},
		"short text":     {[]byte("nonsense"), "unexpected EOF"},
		"empty":          {nil, "the archive is empty"},
		"xz":             {[]byte("\xfd7zXZ\x00 and so on"), "packed with xz"},
		"bzip2":          {[]byte("BZh91AY"), "packed with bzip2"},
		"zip":            {[]byte("PK\x03\x04…"), "packed with zip"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			i := importTar(t, s, good, "good")
			before := content(t, s)
			_, err := s.Import(t.Context(), bytes.NewReader(c.data), ImportOptions{Names: []string{"good"}})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("import = %v; want one line with %q", err, c.want)
			}
			if after := content(t, s); !slices.Equal(after, before) {
				t.Errorf("store: %q; want it as it was, %q", after, before)
			}
			if same, err := s.Resolve("good"); err != nil || same.ID != i.ID {
				t.Errorf("good is %v, %v; want the image from before", same, err)
			}
		})
	}
}

// TestCut: an archive that ends anywhere but at its end is refused.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	good := tarOf(t, file{"d/", ""}, file{"d/a", strings.Repeat("abc", 2000)}, file{"d/b", "text"})
	s := newStore(t)
	for packing, data := range map[string][]byte{"plain": good[:len(good)-1024], "gzip": gzipped(t, good), "zstd": zstded(t, good)} {
		for range 60 {
			n := r.IntN(len(data))
			if _, err := s.Import(t.Context(), bytes.NewReader(data[:n]), ImportOptions{}); err == nil {
				t.Errorf("%s: %d of %d bytes were imported", packing, n, len(data))
			}
		}
	}
	if got := content(t, s); len(got) > 0 {
		t.Errorf("store: %q; want nothing", got)
	}
}

// TestFlipped: a stored blob that is no longer what it was is found out when it is unpacked again.
func TestFlipped(t *testing.T) {
	for packing, data := range map[string][]byte{
		"plain": tarOf(t, file{"a", "some text"}), "gzip": gzipped(t, tarOf(t, file{"a", "some text"})),
	} {
		s := newStore(t)
		i := importTar(t, s, data, "x")
		must(t, removeTree(s.layers()))
		blob := s.blobPath(i.Descriptors()[0].Digest)
		flipped := bytes.Replace(data, []byte("some"), []byte("same"), 1)
		if packing == "gzip" {
			flipped = append(data, gzipped(t, nil)...) // valid, and the same content
		}
		must(t, os.WriteFile(blob, flipped, 0o600))
		if _, err := s.Layers(t.Context(), i, unionfs.Overlay); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: layers of a changed blob: %v; want ErrCorrupt", packing, err)
		}
		if entries, _ := os.ReadDir(s.layers()); len(entries) > 0 {
			t.Errorf("%s: layers: %v; want none", packing, entries)
		}
		must(t, os.WriteFile(blob, data, 0o600))
		if _, err := s.Layers(t.Context(), i, unionfs.Overlay); err != nil {
			t.Errorf("%s: %v", packing, err)
		}
	}
}

// TestCorrupt: what is not what its digest says is not used, and does not hide the rest.
func TestCorrupt(t *testing.T) {
	s := newStore(t)
	bad, good := importTar(t, s, tarOf(t, file{"a", "1"}), "bad"), importTar(t, s, tarOf(t, file{"a", "2"}), "good")
	must(t, os.WriteFile(s.blobPath(digest.Digest(bad.ID)), []byte("{}"), 0o600))
	if _, err := s.Resolve("bad"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("resolve = %v; want ErrCorrupt", err)
	}
	list, err := s.List()
	if len(list) != 1 || list[0].ID != good.ID || !errors.Is(err, ErrCorrupt) {
		t.Errorf("list = %d images, %v; want the good one and ErrCorrupt", len(list), err)
	}
	if _, err := s.Remove("bad", RemoveOptions{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("remove = %v; want ErrCorrupt", err)
	}
	if _, err := s.Remove("bad", RemoveOptions{Force: true}); err != nil {
		t.Errorf("remove by force = %v", err)
	}
	if list, err := s.List(); len(list) != 1 || err != nil {
		t.Errorf("list = %d images, %v; want the good one", len(list), err)
	}
	must(t, os.WriteFile(s.images(indexFile), []byte(`{"manifests":[{"digest":"sha256:../../../../etc/passwd"},{"digest":""}]}`), 0o600))
	if list, err := s.List(); len(list) != 0 || err != nil {
		t.Errorf("list of digests that are none = %v, %v", list, err)
	}
	must(t, os.WriteFile(s.images(indexFile), []byte(`{"manifests":`), 0o600))
	if _, err := s.Resolve("good"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("with half an index: %v; want to be told", err)
	}
}

// smallStore is on a file system of its own, in a mount namespace that only this thread has.
func smallStore(t *testing.T, options string) *Store {
	t.Helper()
	coursetest.NeedRoot(t)
	dir := t.TempDir()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	must(t, mount.Unshare(t.Context()))
	must(t, mount.PrivateTree(t.Context(), "/"))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := Open(filepath.Join(dir, "root"))
	must(t, err)
	return s
}

// TestFullDisk: nothing is left of what did not fit.
func TestFullDisk(t *testing.T) {
	s := smallStore(t, "size=8m")
	small := importTar(t, s, tarOf(t, file{"a", "b"}), "small")
	before := content(t, s)
	for name, data := range map[string][]byte{
		"content": tarOf(t, file{"big", strings.Repeat("x", 6<<20)}, file{"more", strings.Repeat("y", 6<<20)}),
		"blob":    tarOf(t, file{"big", strings.Repeat("x", 5<<20)}),
	} {
		if _, err := s.Import(context.Background(), bytes.NewReader(data), ImportOptions{Names: []string{"small"}}); err == nil ||
			!strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("%s: import to a full disk = %v", name, err)
		}
		if after := content(t, s); !slices.Equal(after, before) {
			t.Errorf("%s: store %q; want %q", name, after, before)
		}
	}
	if i, err := s.Resolve("small"); err != nil || i.ID != small.ID {
		t.Errorf("small = %v, %v", i, err)
	}
	// Removing needs no room.
	rest, err := os.Create(filepath.Join(s.root, "rest"))
	must(t, err)
	io.Copy(rest, zeros{})
	must(t, rest.Close())
	if _, err := s.Remove("small", RemoveOptions{}); err != nil {
		t.Errorf("remove on a full disk = %v", err)
	}
}

// TestMany: thousands of names do not make the store slow or wrong.
func TestMany(t *testing.T) {
	s := newStore(t)
	var headers []tar.Header
	for n := range 3000 {
		headers = append(headers, tar.Header{Name: fmt.Sprintf("%s/%d", strings.Repeat("d", 200), n), Typeflag: tar.TypeFifo, Mode: 0o600, Uid: os.Getuid(), Gid: os.Getgid()})
	}
	i := importTar(t, s, gzipped(t, tarWith(t, headers, nil)), "many")
	dirs, err := s.Layers(t.Context(), i, unionfs.Overlay)
	must(t, err)
	if entries, err := os.ReadDir(filepath.Join(dirs[0], strings.Repeat("d", 200))); len(entries) != 3000 || err != nil {
		t.Errorf("%d entries, %v; want 3000", len(entries), err)
	}
}
