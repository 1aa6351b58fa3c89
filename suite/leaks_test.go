package suite

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/coursetest"
)

// TestLeakCheck proves that the harness sees a leak: a check that cannot fail is none.
func TestLeakCheck(t *testing.T) {
	coursetest.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("nslab-leak", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if got, err := mountsMentioning("/nowhere"); err != nil || !slices.Equal(got, []string{dir}) {
		t.Errorf("mountsMentioning() = %q, %v; want %q", got, err, dir)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}

	// Of two scripts at once, each answers for its own.
	mine, other := filepath.Join(dir, "script-mine"), filepath.Join(dir, "script-other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("nslab-leak", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string][]string{mine: nil, other: {other}} {
		if got, err := mountsMentioning(script); err != nil || !slices.Equal(got, want) {
			t.Errorf("mountsMentioning(%s) = %q, %v; want %q", script, got, err, want)
		}
	}
	if err := unix.Unmount(other, 0); err != nil {
		t.Fatal(err)
	}

	id := course.IDPrefix(dir) + "test"
	group := "/sys/fs/cgroup/nslab-00-" + id
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil {
		group = "/sys/fs/cgroup/unified/nslab-00-" + id // hybrid
		if _, err := os.Stat(filepath.Dir(group)); err != nil {
			group = "/sys/fs/cgroup/pids/nslab-00-" + id // v1
		}
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(group)
	if got, err := course.Cgroups(course.IDPrefix(dir)); err != nil || !slices.Equal(got, []string{group}) {
		t.Errorf("Cgroups() = %q, %v; want %q", got, err, group)
	}
}
