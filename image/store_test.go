package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/nslab/nslab/course/coursetest"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "root"))
	must(t, err)
	return s
}

// file is an entry of a tar: a file with a text, or a folder where the name ends in a slash.
type file struct{ name, text string }

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.text)), Typeflag: tar.TypeReg, Uid: os.Getuid(), Gid: os.Getgid()}
		if f.name[len(f.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f.text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestQuick(t *testing.T) {
	s := newStore(t)
	i, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, file{"etc/", ""}, file{"etc/motd", "hello"})), ImportOptions{Names: []string{"a", "b:v2"}, Message: "x"})
	must(t, err)
	t.Log(i.ID, i.Names, i.Size)
	j, err := s.Resolve("a")
	must(t, err)
	dirs, err := s.Layers(t.Context(), j, unionfs.Overlay)
	must(t, err)
	t.Log(j, dirs)
	k, err := s.Bootstrap(t.Context(), BootstrapOptions{Names: []string{"bootstrap"}})
	must(t, err)
	t.Log(k.Names, k.Size, k.Config.Config)
	l, err := s.List()
	must(t, err)
	for _, i := range l {
		t.Log(i.ID, i.Names)
	}
	dirs, _ = s.Layers(t.Context(), k, unionfs.Overlay)
	filepath.Walk(dirs[0], func(n string, i os.FileInfo, err error) error {
		if i.Mode().IsRegular() || i.IsDir() {
			t.Log(n[len(dirs[0]):], i.Mode())
		}
		return nil
	})
}

func writer(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}
