package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/nslab/nslab/course/coursetest"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "root"))
	must(t, err)
	return s
}

// file is an entry of a tar: a file with a text, or a folder where the name ends in a slash.
type file struct{ name, text string }

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var headers []tar.Header
	for _, f := range files {
		h := tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.text)), Typeflag: tar.TypeReg, Uid: os.Getuid(), Gid: os.Getgid()}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		headers = append(headers, h)
	}
	return tarWith(t, headers, func(i int) string { return files[i].text })
}

func tarWith(t testing.TB, headers []tar.Header, text func(i int) string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, h := range headers {
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg && h.Size > 0 {
			_, err := io.WriteString(w, text(i))
			must(t, err)
		}
	}
	must(t, w.Close())
	return buf.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	must(t, errors.Join(err, w.Close()))
	return buf.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf)
	must(t, err)
	_, err = w.Write(data)
	must(t, errors.Join(err, w.Close()))
	return buf.Bytes()
}

func writer(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func importTar(t testing.TB, s *Store, data []byte, names ...string) *Image {
	t.Helper()
	i, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{Names: names})
	must(t, err)
	return i
}

// content lists the store's files but for the lock, with a layer's folder as one.
func content(t testing.TB, s *Store) (names []string) {
	t.Helper()
	err := filepath.WalkDir(s.root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(s.root, name)
		if filepath.Base(filepath.Dir(name)) == unsettled {
			return nil // it says when the layer was made, and nothing else
		}
		layer := filepath.Dir(rel) == "layers"
		if !e.IsDir() && e.Name() != lockFile || layer {
			names = append(names, rel)
		}
		if layer {
			return fs.SkipDir
		}
		return nil
	})
	if !errors.Is(err, fs.ErrNotExist) {
		must(t, err)
	}
	return names
}

// TestImport: the three packings of one tar are one layer with three blobs.
func TestImport(t *testing.T) {
	s := newStore(t)
	plain := tarOf(t, file{"etc/", ""}, file{"etc/motd", "hello\n"}, file{"bin/sh", strings.Repeat("x", 100_000)})
	diff := digest.FromBytes(plain)
	for name, c := range map[string]struct {
		data []byte
		kind string
	}{
		"plain": {plain, "application/vnd.oci.image.layer.v1.tar"},
		"gzip":  {gzipped(t, plain), "application/vnd.oci.image.layer.v1.tar+gzip"},
		"zstd":  {zstded(t, plain), "application/vnd.oci.image.layer.v1.tar+zstd"},
		// As zstd:chunked has it: a frame for each file, and at the end a table that readers skip (RFC 8878, 3.1.2).
		"chunked": {slices.Concat(zstded(t, plain[:1000]), zstded(t, plain[1000:]), []byte("\x50\x2a\x4d\x18\x05\x00\x00\x00table")), "application/vnd.oci.image.layer.v1.tar+zstd"},
		"two":     {append(gzipped(t, plain[:1000]), gzipped(t, plain[1000:])...), "application/vnd.oci.image.layer.v1.tar+gzip"},
	} {
		i := importTar(t, s, c.data, name)
		got := i.Descriptors()[0]
		if got.Digest != digest.FromBytes(c.data) || got.Size != int64(len(c.data)) || got.MediaType != c.kind {
			t.Errorf("%s: layer %+v; want %d bytes, %s", name, got, len(c.data), c.kind)
		}
		blob, err := os.ReadFile(s.blobPath(got.Digest))
		if err != nil || !bytes.Equal(blob, c.data) {
			t.Errorf("%s: blob of %d bytes, %v; want what came", name, len(blob), err)
		}
		if ids := i.Config.RootFS.DiffIDs; len(ids) != 1 || ids[0] != diff || i.Chain()[0] != diff {
			t.Errorf("%s: diff ids %s; want %s", name, ids, diff)
		}
		if i.Size != 100_006 {
			t.Errorf("%s: size %d; want 100006", name, i.Size)
		}
	}
	i, err := s.Resolve("gzip:latest")
	must(t, err)
	dirs, err := s.Layers(t.Context(), i, unionfs.Overlay)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dirs[0], "etc/motd"))
	if string(text) != "hello\n" || err != nil || len(dirs) != 1 {
		t.Errorf("%v: etc/motd = %q, %v", dirs, text, err)
	}
	if entries, _ := filepath.Glob(s.layers("[^.]*")); len(entries) != 1 {
		t.Errorf("layers: %v; want one, shared", entries)
	}
}

// TestSameInput: what goes in decides what comes out, at whatever time.
func TestSameInput(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var ids []string
	for range 2 {
		i, err := newStore(t).Import(t.Context(), bytes.NewReader(tarOf(t, file{"a", "b"})), ImportOptions{Created: at, Changes: []string{"ENV A=b", "LABEL x=y z=w"}})
		must(t, err)
		j, err := newStore(t).Bootstrap(t.Context(), BootstrapOptions{Created: at})
		must(t, err)
		ids = append(ids, i.ID+i.Digest, j.ID+j.Digest)
	}
	if ids[0] != ids[2] || ids[1] != ids[3] {
		t.Errorf("ids: %q; want the same twice", ids)
	}
}

// TestBlobWriter: whatever the size, the file holds what was written.
func TestBlobWriter(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		for _, size := range []int{0, 1, block, blobPart - 1, blobPart, blobPart + 1, 2*blobPart + block, 3*blobPart + 77} {
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(i * 7 / 5)
			}
			name := filepath.Join(dir, "nslab-blob-test")
			w, err := newBlobWriter(name, 0)
			must(t, err)
			defer os.Remove(name)
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 700_001)
				_, err := w.Write(rest[:n])
				must(t, err)
				rest = rest[n:]
			}
			must(t, errors.Join(w.finish(), w.Close()))
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes in %s: %d, %v; want what was written", size, dir, len(got), err)
			}
		}
	}
}

// TestSweep: the next change removes what a killed one has left, and nothing that somebody works on.
func TestSweep(t *testing.T) {
	s := newStore(t)
	must(t, s.makeFolders())
	alive, err := s.begin(t.Context(), "")
	must(t, err)
	dead := s.layers(staging + "new-123")
	gone := s.layers(removing + strings.Repeat("a", 64))
	for _, dir := range []string{dead, gone} {
		must(t, os.MkdirAll(filepath.Join(dir, "layer/diff/etc"), 0o700))
	}
	i := importTar(t, s, tarOf(t, file{"a", "b"}), "x")
	for dir, want := range map[string]bool{dead: false, gone: false, alive.dir: true} {
		if _, err := os.Lstat(dir); (err == nil) != want {
			t.Errorf("%s: %v; want there = %v", dir, err, want)
		}
	}
	must(t, alive.abort())
	want := []string{"images/blobs/sha256/" + i.Config.RootFS.DiffIDs[0].Encoded(), "images/blobs/sha256/" + digest.Digest(i.ID).Encoded(),
		"images/blobs/sha256/" + digest.Digest(i.Digest).Encoded(), "images/index.json", "images/oci-layout", "layers/" + i.Chain()[0].Encoded()}
	slices.Sort(want)
	if got := content(t, s); !slices.Equal(got, want) {
		t.Errorf("store: %q; want %q", got, want)
	}
}

// TestCancel: an import that is interrupted leaves nothing, also while it waits for its input.
func TestCancel(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	stop := errors.New("stop")
	go func() {
		w.Write(tarOf(t, file{"a", strings.Repeat("x", 5000)})[:4096])
		cancel(stop)
	}()
	_, err := s.Import(ctx, r, ImportOptions{Names: []string{"x"}})
	if !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
		t.Errorf("import = %v; want it interrupted", err)
	}
	if got := content(t, s); len(got) > 0 {
		t.Errorf("store: %q; want nothing", got)
	}
}

// TestConcurrent: many imports of few tars at once.
func TestConcurrent(t *testing.T) {
	s := newStore(t)
	const n = 12
	errs := make(chan error, n)
	for k := range n {
		data := tarOf(t, file{"same", strings.Repeat("s", 50_000)}, file{"other", string(rune('a' + k%3))})
		go func() {
			other, err := Open(s.root)
			if err == nil {
				_, err = other.Import(t.Context(), bytes.NewReader(data), ImportOptions{Names: []string{"x" + string(rune('a'+k))}})
			}
			errs <- err
		}()
	}
	for range n {
		must(t, <-errs)
	}
	list, err := s.List()
	must(t, err)
	var names []string
	for _, i := range list {
		names = append(names, i.Names...)
	}
	if len(names) != n {
		t.Errorf("names: %q; want %d", names, n)
	}
	if entries, _ := filepath.Glob(s.layers("[^.]*")); len(entries) != 3 {
		t.Errorf("layers: %v; want 3", entries)
	}
	// Unpacked anew, by many at once.
	must(t, removeTree(s.layers()))
	for _, i := range list {
		go func() {
			dirs, err := s.Layers(t.Context(), i, unionfs.Overlay)
			if err == nil {
				_, err = os.Lstat(filepath.Join(dirs[0], "same"))
			}
			errs <- err
		}()
	}
	for range list {
		must(t, <-errs)
	}
	if entries, _ := filepath.Glob(s.layers("[^.]*")); len(entries) != 3 {
		t.Errorf("layers: %v; want 3", entries)
	}
}
