package mount

import (
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

//go:embed mount.go propagation.go options.go newapi.go descriptor.go table.go flags.go errors.go probe.go probe_paths.go
//go:embed lab.go look.go change.go share.go keep.go actors.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in look.go (what a namespace is and copies), share.go (propagation), change.go
// (flags) and keep.go (what outlives an unmount).
var Lab = course.Lab{
	Number: 2, Slug: "mount", Minutes: 25,
	Title: course.Text{
		En: "A mount namespace changes nothing until you mount",
		Zh: "不挂载，挂载命名空间就什么都不变",
	},
	Needs: []course.Need{course.NeedRootOrUserns, course.NeedMountNS, course.NeedTmpfs},
	Files: files,
	Steps: []course.Step{
		{ID: "copy", Answer: 2, Run: copyOfAll},
		{ID: "tmpfs", Run: tmpfsOnTmp},
		{ID: "leak", Answer: 1, Run: leak},
		{ID: "private", Run: private},
		{ID: "slave", Answer: 3, Run: slave},
		{ID: "bind", Run: bind},
		{ID: "readonly", Answer: 2, Run: readOnly},
		{ID: "flags", Run: flagsLost},
		{ID: "errno", Run: refusals},
		{ID: "new-api", Run: wholeTree},
		{ID: "pinned", Answer: 3, Run: pinned},
		{ID: "cost", Run: cost},
	},
	Zh: zh,
}

// newBox starts the process under study: all it has of its own is a mount namespace.
func newBox(ctx context.Context, t *course.T) (*pid.Box, error) {
	return pid.NewBox(ctx, t, pid.Config{Namespaces: unix.CLONE_NEWNS})
}

// bench is where a step has room to play: a small tmpfs on /mnt of the walkthrough's own mount namespace, which the host
// never sees, with the folders it asks for. No step changes or shares a mount that was there before. /mnt is for things
// like this, and short to read; where a machine has none, it is a folder of the step's.
func bench(t *course.T, folders ...string) (string, error) {
	place := "/mnt"
	if st, err := os.Lstat(place); err != nil || !st.IsDir() {
		if place, err = t.Dir(); err != nil {
			return "", err
		}
	}
	if err := disk(t.Untraced(), place, 0); err != nil {
		return "", err
	}
	// One call takes away whatever the step has mounted below as well.
	t.Cleanup(func(ctx context.Context) error { return Detach(ctx, place) })
	for _, name := range folders {
		if err := os.Mkdir(filepath.Join(place, name), 0o755); err != nil {
			return "", err
		}
	}
	return place, nil
}

// disk mounts a tmpfs that stands for any disk.
func disk(ctx context.Context, target string, flags uintptr) error {
	return Tmpfs(ctx, target, TmpfsOptions{Name: "disk", Size: 1 << 20, Mode: 0o755, Flags: flags})
}

// outside is where the walkthrough itself is.
func outside() int { return os.Getpid() }

// mountedOn finds what is mounted on target, as the table of a process says. A target without a mount is an empty entry.
func mountedOn(pid int, target string) (Entry, error) {
	table, err := TableOf(pid)
	if err != nil {
		return Entry{}, err
	}
	m, _ := table.At(target)
	return m, nil
}

// identity names the file that a path leads to, the same for every path that leads there: device and inode.
func identity(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino), nil
}

// write tries to write a file as process pid sees it, from out here, and names the answer: "ok", "EROFS".
func write(pid int, path string) string {
	return evidence.Answer(os.WriteFile(evidence.Inside(pid, path), []byte("written\n"), 0o600))
}

// differing counts the lines that are in only one of two tables.
func differing(before, after []string) int {
	count := map[string]int{}
	for _, line := range before {
		count[line]++
	}
	for _, line := range after {
		count[line]--
	}
	n := 0
	for _, c := range count {
		n += max(c, -c)
	}
	return n
}

// orNone shows something, or that there is none, in any language.
func orNone(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func str(n int) string { return strconv.Itoa(n) }
