package volumes

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	"github.com/nslab/nslab/trace"
)

//go:embed volumes.go parse.go store.go copy.go errors.go
//go:embed lab.go lab_bind.go lab_care.go lab_store.go actors.go zh.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_bind.go (what a bind mount is), lab_care.go (read-only, links,
// propagation, refusals) and lab_store.go (volumes and layers).
var Lab = course.Lab{
	Number: 7, Slug: "volumes", Minutes: 25,
	Title: course.Text{En: "Files that outlive a container", Zh: "比容器活得更久的文件"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS, course.NeedTmpfs, course.NeedOverlay,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "same-inode", Answer: 2, Run: sameInode},
		{ID: "both-ways", Run: bothWays},
		{ID: "hidden", Answer: 3, Run: hidden},
		{ID: "order", Run: order},
		{ID: "readonly", Answer: 2, Run: readOnly},
		{ID: "links", Answer: 1, Run: links},
		{ID: "propagation", Run: propagation},
		{ID: "refused", Run: refused},
		{ID: "kinds", Run: kinds},
		{ID: "copy-up", Answer: 2, Run: copyUp},
		{ID: "layer", Answer: 1, Run: layer},
	},
	Zh: zh,
}

// place is where a step works: a tmpfs with a folder "host" that stands for the host's, and "root", the container's.
type place struct{ dir, host, root string }

func newPlace(t *course.T) (p place, err error) {
	if p.dir, err = t.Dir(); err != nil {
		return p, err
	}
	// A file system of its own: the run root may lie on an overlay, which cannot be the upper layer of another one.
	if err := mount.Tmpfs(t.Untraced(), p.dir, mount.TmpfsOptions{Name: t.Name(), Size: 16 << 20, Mode: 0o755}); err != nil {
		return p, err
	}
	t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, p.dir) })
	p.host, p.root = filepath.Join(p.dir, "host"), filepath.Join(p.dir, "root")
	return p, makeFolders(p.host, p.root, filepath.Join(p.root, "etc"))
}

func makeFolders(dirs ...string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// newBox starts a container's first process, with the root as a mount, as a runtime has it just before it binds volumes.
func newBox(t *course.T, root string) (*pid.Box, error) {
	box, err := pid.NewBox(t.Untraced(), t, pid.Config{Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID})
	if err != nil {
		return nil, err
	}
	_, err = box.Call(t.Untraced(), "04-mount-point", root)
	return box, err
}

// bind calls the stage in a box.
func bind(ctx context.Context, box *pid.Box, root string, m Mount) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = box.Call(ctx, "07-bind", root, string(text))
	return err
}

// inside starts a box, binds what m asks for, and switches the root.
func inside(ctx context.Context, t *course.T, p place, list ...Mount) (*pid.Box, error) {
	box, err := newBox(t, p.root)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		if err := bind(ctx, box, p.root, m); err != nil {
			return nil, err
		}
	}
	_, err = box.Call(t.Untraced(), "04-enter", p.root)
	return box, err
}

// only is the step's context for calls whose names begin with one of these words: the first step shows all.
func only(t *course.T, words ...string) context.Context {
	shown := t.Context()
	return trace.With(t.Untraced(), func(r trace.Record) {
		for _, w := range words {
			if strings.HasPrefix(r.Text, w) {
				trace.Replay(shown, r)
			}
		}
	})
}

// in is a path of a box, for us outside.
func in(box *pid.Box, path string) string { return evidence.Inside(box.Pid(), path) }

// identity is device and inode of what a path leads to, or why it leads nowhere.
func identity(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return evidence.Answer(err)
	}
	return fmt.Sprintf("%d:%d %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
}

// text is what a file holds, or why it cannot be read.
func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return evidence.Answer(err)
	}
	return strings.TrimSpace(string(data))
}

// write tries to write a file, and names the answer.
func write(path, content string) string {
	return evidence.Answer(os.WriteFile(path, []byte(content+"\n"), 0o644))
}

// names lists a folder, "–" if there is nothing in it.
func names(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return evidence.Answer(err)
	}
	if len(entries) == 0 {
		return "–"
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

// mountsBelow counts the mounts at or below a path in a process's table, which names them from that process's root.
func mountsBelow(pid int, path string) (int, error) {
	table, err := mount.TableOf(pid)
	if err != nil {
		return 0, err
	}
	count := 0
	for _, e := range table {
		if e.Target == path || strings.HasPrefix(e.Target, path+"/") {
			count++
		}
	}
	return count, nil
}

func str(n int) string { return strconv.Itoa(n) }

// openTree opens a root for the time of f.
func openTree(ctx context.Context, root string, f func(*rootfs.Tree) error) error {
	tree, err := rootfs.OpenTree(ctx, root)
	if err != nil {
		return err
	}
	return errors.Join(f(tree), tree.Close())
}
