package unionfs

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// served mounts an aufs-fuse union for a test, and takes it away again.
func served(t *testing.T, branches ...Branch) *Union {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	target := t.TempDir()
	u, err := mountFUSE(context.Background(), branches, target)
	need(t, err)
	t.Cleanup(func() { need(t, u.Unmount(context.Background())) })
	return u
}

func need(t *testing.T, err error) {
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
			need(t, os.MkdirAll(path, 0o755))
			continue
		}
		need(t, os.MkdirAll(filepath.Dir(path), 0o755))
		need(t, os.WriteFile(path, []byte(text), 0o644))
	}
}

func TestFirst(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"x": "below", "d/y": "deep"})
	u := served(t, Branch{a, RW}, Branch{b, RO})
	need(t, os.WriteFile(filepath.Join(u.Target, "x"), []byte("above"), 0o644))
	need(t, os.Remove(filepath.Join(u.Target, "d/y")))
	list, err := Listing(u)
	need(t, err)
	t.Log(list, u)
	for _, p := range []string{"x", "d/.wh.y"} {
		if _, err := os.Stat(filepath.Join(a, p)); err != nil {
			t.Error(err)
		}
	}
}
