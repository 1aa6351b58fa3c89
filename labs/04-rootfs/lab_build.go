package rootfs

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// build: one small program, and what it needs.
func build(t *course.T) error {
	_, root, err := bench(t)
	if err != nil {
		return err
	}
	plan, err := buildInto(only(t.Context(), "openat(", "symlinkat("), root, "cat")
	if err != nil {
		return err
	}
	for _, e := range plan.Files() {
		see(t, e)
	}
	seeRest(t, plan)
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "04-chroot", root); err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "04-start", plan.program("cat")); err != nil {
		return err
	}
	want := programs(plan)
	var mapped []string
	t.Await(30*time.Second, func() bool { mapped = mappedFiles(box, root); return slices.Equal(mapped, want) })
	t.See("the cat that runs in there has mapped: %s", strings.Join(mapped, " "))
	t.Equal(strings.Join(want, " "), strings.Join(mapped, " "),
		"what it has mapped is what was found in the headers: nothing is missing, nothing is too much")
	return nil
}

// see shows a file of a plan with the reason why it is there.
func see(t *course.T, e Entry) {
	size := units.BytesSize(float64(e.Size))
	switch e.Why.What {
	case Asked:
		t.See("%s (%s): was asked for", e.Path, size)
	case Loader:
		t.See("%s (%s): loader of %s", e.Path, size, e.Why.Of)
	case Library:
		t.See("%s (%s): library of %s", e.Path, size, e.Why.Of)
	case Interpreter:
		t.See("%s (%s): interpreter of %s", e.Path, size, e.Why.Of)
	default:
		t.See("%s (%s): tells the loader where the libraries lie", e.Path, size)
	}
}

// seeRest counts what is not a file, and shows the links.
func seeRest(t *course.T, plan *Plan) {
	folders := 0
	var links, applets []string
	for _, e := range plan.Entries {
		switch {
		case e.Mode.IsDir():
			folders++
		case e.Why.What == Applet:
			applets = append(applets, filepath.Base(e.Path))
		case e.Target != "":
			links = append(links, e.Path+" → "+e.Target)
		}
	}
	t.See("and %s folders and %s links: %s", str(folders), str(len(links)), strings.Join(links, ", "))
	if len(applets) > 0 {
		t.See("and %s links to busybox, which does what the name says: %s …", str(len(applets)),
			strings.Join(applets[:min(8, len(applets))], ", "))
	}
}

// programs are the files of a plan that a process maps.
func programs(plan *Plan) []string {
	var list []string
	for _, e := range plan.Files() {
		if e.Made == nil {
			list = append(list, e.Path)
		}
	}
	slices.Sort(list)
	return list
}

// mappedFiles reads which files the box's child has mapped, from the kernel's table of its memory, proc_pid_maps(5).
// The names there are those of the box's mount namespace: what its root is called there is cut off.
func mappedFiles(box *pid.Box, root string) []string {
	inode, err := evidence.Namespace(box.Pid(), "pid")
	if err != nil {
		return nil
	}
	members, err := evidence.Members("pid", inode)
	if err != nil {
		return nil
	}
	files := map[string]bool{}
	for _, member := range members {
		if member == box.Pid() {
			continue
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/maps", member))
		if err != nil {
			return nil
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 6 || !strings.HasPrefix(fields[5], "/") {
				continue
			}
			if name, ok := strings.CutPrefix(fields[5], root); ok {
				files[name] = true
			} else {
				files["outside: "+fields[5]] = true
			}
		}
		f.Close()
	}
	return slices.Sorted(maps.Keys(files))
}

// missing: the same words for a missing program and for a missing loader.
func missing(t *course.T) error {
	root, plan, err := rootWith(t, "cat")
	if err != nil {
		return err
	}
	program := plan.program("cat")
	loader, library := plan.first(Loader), plan.first(Library)
	if loader == "" {
		t.See("%s of this machine is static: it needs no loader, and none can be missing", program)
		return nil
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "04-chroot", root); err != nil {
		return err
	}
	away := func(file string) (said string, err error) {
		if err := os.Rename(filepath.Join(root, file), filepath.Join(root, "away")); err != nil {
			return "", err
		}
		said, err = box.Call(t.Context(), "04-run", program, "--version")
		if back := os.Rename(filepath.Join(root, "away"), filepath.Join(root, file)); back != nil {
			return "", back
		}
		return said, err
	}
	_, err = away(loader)
	_, there := os.Stat(filepath.Join(root, program))
	t.See("without %s, the kernel's answer to execve: %s", loader, evidence.Answer(err))
	t.See("the program itself, looked up from outside: %s", evidence.Answer(there))
	t.Equal("ENOENT", evidence.Answer(err), "a missing loader is \"no such file\", too")
	t.Equal("ok", evidence.Answer(there), "though the file that was named is there")
	said, err := away(library)
	if err != nil {
		return err
	}
	t.See("without %s, what the loader says: %s", library, said)
	t.Check(strings.Contains(said, filepath.Base(library)), filepath.Base(library), said, "the loader names the library that is missing")
	if said, err = box.Call(t.Context(), "04-run", program, "--version"); err != nil {
		return err
	}
	first, _, _ := strings.Cut(said, "\n")
	t.See("with everything in place: %s", first)
	t.Check(!strings.Contains(said, "exit status"), "exit status 0", said, "with both it runs")
	return nil
}

// first is the first file of the plan that is there for this reason, by the path where the file really is.
func (p *Plan) first(what What) string {
	for _, e := range p.Files() {
		if e.Why.What == what {
			return e.Path
		}
	}
	return ""
}
