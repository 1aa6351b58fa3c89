package unionfs

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

//go:embed unionfs.go overlay.go aufs.go convert.go walk.go marker.go tar.go errors.go branch.go whiteout.go fuse.go
//go:embed server.go server_attr.go server_copy.go server_copyup.go server_device.go server_dir.go server_file.go server_links.go
//go:embed server_listing.go server_lookup.go server_make.go server_node.go server_pass.go server_remove.go server_rename.go server_xattr.go
//go:embed lab.go lab_look.go lab_delete.go lab_layers.go lab_aufs.go lab_faults.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_look.go (one view of several folders), lab_delete.go (whiteouts),
// lab_layers.go (the layers of a container), lab_aufs.go and lab_faults.go.
var Lab = course.Lab{
	Number: 5, Slug: "unionfs", Minutes: 25,
	Title: course.Text{En: "Many folders, one view: the layers of an image", Zh: "许多目录，一个视图：镜像的层"},
	Needs: []course.Need{course.NeedRootOrUserns, course.NeedMountNS, course.NeedTmpfs, course.NeedOverlay},
	Files: files,
	Steps: []course.Step{
		{ID: "union", Run: seenAsOne},
		{ID: "copy-up", Answer: 2, Run: copyUp},
		{ID: "whiteout", Answer: 3, Run: whiteout},
		{ID: "opaque", Answer: 1, Run: opaque},
		{ID: "layers", Run: layers},
		{ID: "commit", Answer: 2, Run: commit},
		{ID: "aufs", Run: aufsByName},
		{ID: "many", Run: manyLayers},
		{ID: "refused", Run: refused},
		{ID: "full", Run: full},
		{ID: "killed", Answer: 3, Run: killed},
	},
	Zh: zh,
}

// bench is the step's folder. Where the run folder's own file system cannot hold an upper folder, as in a container whose
// root is an overlay, a tmpfs is mounted on it, inside the walkthrough's own mount namespace.
func bench(t *course.T) (string, error) {
	dir, err := t.Dir()
	if err != nil {
		return "", err
	}
	fits, err := holdsLayers(t, dir)
	if err != nil || fits {
		return dir, err
	}
	t.See("an upper folder cannot be on the file system of %s, so the step takes one in memory", dir)
	return dir, disk(t.Context(), t, dir, 16<<20)
}

// disk mounts a tmpfs for the time of the step.
func disk(ctx context.Context, t *course.T, dir string, size int64) error {
	err := mount.Tmpfs(ctx, dir, mount.TmpfsOptions{Name: t.Name(), Size: size, Mode: 0o755})
	if err == nil {
		t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, dir) })
	}
	return err
}

// holdsLayers tries an overlay with its upper folder below dir: does it mount, and can it delete?
func holdsLayers(t *course.T, dir string) (fits bool, err error) {
	try := filepath.Join(dir, ".try")
	defer func() { err = errors.Join(err, os.RemoveAll(try)) }()
	if err := makeFiles(try, "lower/file", "upper/", "work/", "merged/"); err != nil {
		return false, err
	}
	l := Layers{Lower: []string{try + "/lower"}, Upper: try + "/upper", Work: try + "/work"}
	u, err := Mount(t.Untraced(), Overlay, l, try+"/merged")
	if err != nil {
		return false, nil
	}
	if err := os.Remove(try + "/merged/file"); err != nil {
		return false, unmounting(u)(t.Untraced())
	}
	return true, u.Unmount(t.Untraced())
}

// makeFiles makes files below dir, each with its own folder and name as content ("of A" for "A/x"); a name that ends in "/"
// is a folder.
func makeFiles(dir string, names ...string) error {
	for _, name := range names {
		path := filepath.Join(dir, name)
		folder := path
		if !strings.HasSuffix(name, "/") {
			folder = filepath.Dir(path)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if folder == path {
			continue
		}
		top, _, _ := strings.Cut(name, "/")
		if err := os.WriteFile(path, []byte("of "+top+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// classic makes the folders A and B, both with a file x, and mounts them on C: A is writable, B is not.
func classic(ctx context.Context, t *course.T, more ...string) (dir string, err error) {
	if dir, err = bench(t); err != nil {
		return "", err
	}
	if err := makeFiles(dir, append([]string{"A/a", "A/x", "B/b", "B/x", "C/", "work/"}, more...)...); err != nil {
		return "", err
	}
	_, err = unite(ctx, t, Overlay, classicLayers(dir), dir+"/C")
	return dir, err
}

func classicLayers(dir string) Layers {
	return Layers{Lower: []string{dir + "/B"}, Upper: dir + "/A", Work: dir + "/work"}
}

// unite mounts a union for the time of the step.
func unite(ctx context.Context, t *course.T, d Driver, l Layers, target string) (*Union, error) {
	u, err := Mount(ctx, d, l, target)
	if err == nil {
		t.Cleanup(unmounting(u))
	}
	return u, err
}

// unmounting takes a union away unless the step has done so.
func unmounting(u *Union) func(context.Context) error {
	return func(ctx context.Context) error {
		table, err := mount.Current()
		if err != nil {
			return err
		}
		if _, mounted := table.At(u.Target); !mounted {
			return nil
		}
		return u.Unmount(ctx)
	}
}

// The changes that the steps make to files, shown with the calls of the stage.

// write writes to a file as a program would, with the flags of its open.
func write(t *course.T, path string, flags int, text string) error {
	shown := "O_WRONLY|O_APPEND"
	if flags&os.O_CREATE != 0 {
		shown = "O_WRONLY|O_CREAT|O_TRUNC"
		flags |= os.O_TRUNC
	} else {
		flags |= os.O_APPEND
	}
	return trace.Call(t.Context(), 1,
		func() string { return fmt.Sprintf("open(%q, %s), write(%q)", path, shown, text) },
		func() error {
			f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o644)
			if err != nil {
				return unwrapped(err)
			}
			_, err = f.WriteString(text)
			return errors.Join(err, f.Close())
		})
}

// unlink deletes a file.
func unlink(t *course.T, path string) error {
	return trace.Call(t.Context(), 1, func() string { return fmt.Sprintf("unlinkat(AT_FDCWD, %q, 0)", path) },
		func() error { return unix.Unlinkat(unix.AT_FDCWD, path, 0) })
}

// removeAll deletes a folder with the files in it, as rm -r does: the kernel removes only empty ones.
func removeAll(t *course.T, folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := unlink(t, filepath.Join(folder, e.Name())); err != nil {
			return err
		}
	}
	return trace.Call(t.Context(), 1, func() string { return fmt.Sprintf("rmdir(%q)", folder) }, func() error { return unix.Rmdir(folder) })
}

func mkdir(t *course.T, folder string) error {
	return trace.Call(t.Context(), 1, func() string { return fmt.Sprintf("mkdirat(AT_FDCWD, %q, 0755)", folder) },
		func() error { return unix.Mkdirat(unix.AT_FDCWD, folder, 0o755) })
}

// unwrapped is the kernel's answer without the name, which the call shows already.
func unwrapped(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// list names what is in a folder, sorted.
func list(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return said(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		return "–"
	}
	return strings.Join(names, " ")
}

// text is what a file holds, on one line.
func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return said(err)
	}
	return strings.Join(strings.Split(strings.TrimSpace(string(data)), "\n"), " / ")
}

// identity tells device and inode of a file, which say whether two paths lead to the same.
func identity(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return said(err)
	}
	return fmt.Sprintf("%d:%d %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
}

// ls shows a file's kind and rights as ls -l does, and its size or numbers.
func ls(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return said(err)
	}
	mode := "" // without its letter
	for i, letter := range "rwxrwxrwx" {
		if st.Mode&(0o400>>i) == 0 {
			letter = '-'
		}
		mode += string(letter)
	}
	letter, rest, _ := strings.Cut(looks(path), " ")
	return strings.TrimSpace(letter + mode + " " + rest)
}

// looks tells what a file is: the letter by which ls shows it, and its size or numbers.
func looks(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return said(err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return fmt.Sprintf("c %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFDIR:
		return "d"
	case unix.S_IFREG:
		return fmt.Sprintf("- %d", st.Size)
	}
	return "?"
}

// overlayForm is the form in which the overlays of this walkthrough mark.
func overlayForm(t *course.T) Form {
	if t.InUserNamespace() {
		return OverlayUserForm
	}
	return OverlayForm
}

// ourAufs chooses the aufs that there is, or tells that there is none.
func ourAufs(t *course.T) (Driver, bool) {
	if HasAufs(t.Untraced()) {
		t.See("this kernel has aufs, so it is the kernel's")
		return Aufs, true
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.See("no aufs in this kernel, and /dev/fuse cannot be opened (%s): this part is left out", said(err))
		return "", false
	}
	f.Close()
	t.See("no aufs in this kernel: ours serves it, in user space")
	return AufsFUSE, true
}

// brief is the step's context with only the first n calls of each kind that it makes.
func brief(t *course.T, n int, prefix string) context.Context {
	shown, seen := t.Context(), 0
	return trace.With(t.Untraced(), func(r trace.Record) {
		if strings.Contains(r.Text, prefix) {
			if seen++; seen > n {
				return
			}
		}
		trace.Replay(shown, r)
	})
}

// unmet joins the conditions that do not hold.
func unmet(conditions []string) string {
	if len(conditions) == 0 {
		return "–"
	}
	return strings.Join(slices.Sorted(slices.Values(conditions)), ", ")
}

func str(n int) string { return strconv.Itoa(n) }

// said names what the kernel said.
func said(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, unix.EBUSY): // the kernel's, or our own
		return "EBUSY"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}
