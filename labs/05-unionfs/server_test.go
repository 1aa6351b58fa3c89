package unionfs

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// TestBranchesHold: what is changed in the union is in the writable branch, in aufs's form, and nowhere else.
func TestBranchesHold(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"x": "below", "d/y": "deep", "e/z": "deep"})
	u := served(t, Branch{a, RW}, Branch{b, RO})
	must(t, os.WriteFile(on(u, "x"), []byte("above"), 0o644))
	must(t, os.Remove(on(u, "d/y")))
	must(t, os.RemoveAll(on(u, "e")))
	must(t, os.Mkdir(on(u, "e"), 0o755))
	for path, want := range map[string]string{
		filepath.Join(a, "x"): "above", filepath.Join(a, "d/.wh.y"): "", filepath.Join(a, "e/.wh..wh..opq"): "",
		filepath.Join(b, "x"): "below", filepath.Join(b, "d/y"): "deep", filepath.Join(b, "e/z"): "deep",
	} {
		if got, err := os.ReadFile(path); string(got) != want || err != nil {
			t.Errorf("read %s = %q, %v; want %q", path, got, err, want)
		}
	}
	list, err := Listing(u)
	must(t, err)
	if want := (Branch{a, RW}.String() + " " + Branch{b, RO}.String()); fmt.Sprint(list) != "["+want+"]" {
		t.Errorf("the union lists its branches as %v; want %s", list, want)
	}
}

// TestOldDescriptor: who opened a file before it was copied up reads what is written afterwards.
func TestOldDescriptor(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"x": strings.Repeat("x", 300_000)})
	u := served(t, Branch{a, RW}, Branch{b, RO})
	reader, err := os.Open(on(u, "x"))
	must(t, err)
	defer reader.Close()
	writer, err := os.OpenFile(on(u, "x"), os.O_WRONLY, 0)
	must(t, err)
	defer writer.Close()
	_, err = writer.WriteAt([]byte("new"), 200_001)
	must(t, err)
	buf := make([]byte, 5)
	if _, err := reader.ReadAt(buf, 200_000); string(buf) != "xnewx" {
		t.Errorf("the reader's descriptor reads %q, %v; want xnewx", buf, err)
	}
}

// TestManyAtOnce: whatever several do at once, the server's idea of the tree is what the branches say.
func TestManyAtOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	seed := fromEnvironment(t, "NSLAB_SEED", time.Now().UnixNano())
	t.Logf("NSLAB_SEED=%d", seed)
	list := []Branch{{filepath.Join(dir, "rw"), RW}}
	must(t, os.Mkdir(list[0].Path, 0o755))
	for i, files := range randomLayers(rand.New(rand.NewSource(seed))) {
		list = append(list, Branch{filepath.Join(dir, fmt.Sprint(i)), ROWH})
		writeLayer(t, list[i+1].Path, files, AufsFUSE, "")
	}
	target := t.TempDir()
	u, err := mountFUSE(context.Background(), list, target)
	must(t, err)
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			r := rand.New(rand.NewSource(seed + int64(i)))
			me := &side{root: target, kept: map[int]*os.File{}}
			defer closeKept([]*side{me})
			for range 1500 {
				randomOperation(r, nil).do(me) // that it may be refused is part of it
			}
		})
	}
	group.Wait()
	before := snapshotOf(t, target, false)
	must(t, u.Unmount(context.Background()))
	u, err = mountFUSE(context.Background(), list, target)
	must(t, err)
	if after := snapshotOf(t, target, false); !slices.Equal(before, after) {
		t.Errorf("mounted again, it differs:\n%s", differenceOf(before, after))
	}
	must(t, u.Unmount(context.Background()))
}
