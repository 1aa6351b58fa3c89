package unionfs

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/nslab/nslab/course/coursetest"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

// served mounts an aufs-fuse union for a test, and takes it away again.
func served(t *testing.T, branches ...Branch) *Union {
	t.Helper()
	coursetest.NeedRoot(t)
	target := t.TempDir()
	u, err := mountFUSE(context.Background(), branches, target)
	must(t, err)
	t.Cleanup(func() { must(t, u.Unmount(context.Background())) })
	return u
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sow makes files: a name that ends in a slash is a folder.
func sow(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if name[len(name)-1] == '/' {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
}

func TestFirst(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"x": "below", "d/y": "deep"})
	u := served(t, Branch{a, RW}, Branch{b, RO})
	must(t, os.WriteFile(filepath.Join(u.Target, "x"), []byte("above"), 0o644))
	must(t, os.Remove(filepath.Join(u.Target, "d/y")))
	list, err := Listing(u)
	must(t, err)
	t.Log(list, u)
	for _, p := range []string{"x", "d/.wh.y"} {
		if _, err := os.Stat(filepath.Join(a, p)); err != nil {
			t.Error(err)
		}
	}
}
