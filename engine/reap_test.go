package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nslab/nslab/course/coursetest"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

func number(digit string) string { return "a" + strings.Repeat(digit, 63) }

// What killed commands may have left goes; what is somebody else's, or in use, stays.
func TestReap(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx := testEngine(t), t.Context()
	c := runTest(t, e, HostConfig{})
	other, err := Open(t.TempDir(), e.RunRoot) // with the same run root
	must(t, err)
	run := func(id, owner string) string {
		dir := filepath.Join(e.runDir(), id)
		must(t, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(dir+"/lock", []byte(owner), 0o600)))
		return dir
	}
	ours, theirs, nobodys, begun := run(number("1"), e.Root), run(number("2"), other.Root), run(number("3"), ""), run(number("8"), "")
	must(t, os.WriteFile(nobodys+"/monitor", nil, 0o600))
	held := run(number("4"), e.Root)
	lock, err := lockFile(ctx, held+"/lock")
	must(t, err)
	defer lock.Close()
	must(t, os.Symlink(number("5"), filepath.Join(e.namesDir(), "stale")))
	must(t, os.Remove(filepath.Join(e.namesDir(), "cc"))) // its own name was lost
	half := filepath.Join(e.containersDir(), number("6"))
	must(t, os.MkdirAll(half+"/upper", 0o755)) // without a record
	going := filepath.Join(e.containersDir(), removing+number("7"))
	must(t, os.MkdirAll(going+"/upper", 0o755))

	removed, err := e.Reap(ctx)
	must(t, err)
	for _, dir := range []string{ours, begun, half, going, filepath.Join(e.namesDir(), "stale")} {
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
	for _, dir := range []string{theirs, nobodys, held} {
		if _, err := os.Lstat(dir); err != nil {
			t.Errorf("%s, which is not ours to take, is gone: %v", dir, err)
		}
	}
	if want := []string{ours, begun, filepath.Join(e.namesDir(), "stale")}; !slices.Equal(removed, want) {
		t.Errorf("removed %q; want %q", removed, want)
	}
	if now, err := e.Get(ctx, "cc"); err != nil || now.ID != c.ID || !now.State.Running {
		t.Errorf("the container that runs: %v, %v; want it under its name again", now, err)
	}
	if removed, err := e.Reap(ctx); len(removed) > 0 || err != nil {
		t.Errorf("the second time: %q, %v; want nothing", removed, err)
	}
}

// A container whose folder somebody takes away while it runs: its journal still says what is to be ended and removed.
func TestReapWithoutFolder(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx := testEngine(t), t.Context()
	c, err := e.Create(ctx, CreateOptions{Name: "cc", Config: Config{Image: "box", Cmd: []string{"sleep", "1000"}}})
	must(t, err)
	_, err = c.Start(ctx, StartOptions{})
	must(t, errors.Join(err, c.Close()))
	s, err := c.runtime()
	must(t, err)
	t.Cleanup(func() { s.Delete(context.Background(), true) })
	must(t, os.RemoveAll(c.Dir()))
	removed, err := e.Reap(ctx)
	must(t, err)
	if s.Alive() {
		t.Error("its init still runs")
	}
	for _, thing := range s.Things {
		if _, err := os.Lstat(thing.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s %s is still there: %v", thing.Kind, thing.Path, err)
		}
	}
	if !slices.Contains(removed, c.RunDir()) {
		t.Errorf("removed %q; want %s among it", removed, c.RunDir())
	}
}

// A container whose run folder somebody takes away does not look as if it ran. Its control group tells that it does.
func TestReapWithoutRun(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx := testEngine(t), t.Context()
	c := runTest(t, e, HostConfig{})
	s, err := c.runtime()
	must(t, err)
	if s.Group == nil {
		coursetest.Missing(t, "control groups")
	}
	must(t, os.RemoveAll(c.RunDir()))
	removed, err := e.Reap(ctx)
	must(t, err)
	for until := time.Now().Add(10 * time.Second); s.Alive() && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	if s.Alive() {
		t.Error("its init still runs")
	}
	if !slices.ContainsFunc(removed, func(dir string) bool { return strings.HasPrefix(dir, "/sys/fs/cgroup/") }) {
		t.Errorf("removed %q; want its control group", removed)
	}
}

func TestVolumesOfGhosts(t *testing.T) {
	e := testEngine(t)
	for _, name := range []string{"used", "free", ""} {
		_, err := e.CreateVolume(name, map[string]string{"l": "1"})
		must(t, err)
	}
	store, err := e.Volumes()
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(e.containersDir(), number("1")), 0o755))
	must(t, errors.Join(store.Use("used", number("1")), store.Use("used", number("2")), store.Use("free", number("2"))))
	v, err := e.Volume("used")
	must(t, err)
	if !slices.Equal(v.Users, []string{number("1")}) {
		t.Errorf("users %q; want only the container that there is", v.Users)
	}
	if err := e.RemoveVolume("used"); !errors.Is(err, volumes.ErrInUse) {
		t.Errorf("remove one that is in use: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(e.Root, "volumes/free/_data/x"), []byte("12345"), 0o600))
	names, bytes, err := e.PruneVolumes(t.Context(), func(v *volumes.Volume) bool { return !v.Anonymous })
	if !slices.Equal(names, []string{"free"}) || bytes != 5 || err != nil {
		t.Errorf("pruned %q with %d bytes, %v; want free with 5", names, bytes, err)
	}
	if _, err := e.Volume("free"); !errors.Is(err, volumes.ErrNoVolume) {
		t.Errorf("a volume that was pruned: %v", err)
	}
	if list, err := e.ListVolumes(); len(list) != 2 || err != nil {
		t.Errorf("%d volumes are left, %v; want 2", len(list), err)
	}
	for _, name := range []string{"x", "../x", "a b", "a\nb"} {
		if _, err := e.CreateVolume(name, nil); !errors.Is(err, volumes.ErrName) || strings.Contains(err.Error(), "\n") {
			t.Errorf("create %q: %v; want ErrName on one line", name, err)
		}
		if err := e.RemoveVolume(name); !errors.Is(err, volumes.ErrNoVolume) {
			t.Errorf("remove %q: %v; want ErrNoVolume", name, err)
		}
	}
}

func TestUsageCountsLayersOnce(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx := testEngine(t), context.Background()
	c := below(t, e, unionfs.Overlay)
	must(t, os.WriteFile(c.path(upperLayer)+"/x", make([]byte, 1000), 0o644))
	i, err := e.Commit(ctx, "cc", CommitOptions{Name: "more"})
	must(t, err)
	u, err := e.Usage(ctx)
	must(t, err)
	box, err := e.Images().Resolve("box")
	must(t, err)
	must(t, e.Images().Measure(box))
	if want := box.Size + i.Size; u.Layers != want {
		t.Errorf("layers take %d; want %d: those of two images, one of which has the third's", u.Layers, want)
	}
	if want := i.Size - 1000; u.LayersUsed != want {
		t.Errorf("a container needs %d; want %d", u.LayersUsed, want)
	}
	for _, image := range u.Images {
		if image.ID == i.ID && (image.Unique != 1000 || image.Containers != 0) {
			t.Errorf("the committed image: %d bytes of its own, %d containers; want 1000 and 0", image.Unique, image.Containers)
		}
	}
	if len(u.Containers) != 1 || u.Containers[0].Size != 1000 {
		t.Errorf("containers %+v; want one with 1000 bytes", u.Containers)
	}
}
