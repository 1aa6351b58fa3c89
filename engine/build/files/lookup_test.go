package files

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// randomTree has folders, files and links to each other and to nowhere, with short names so that much meets.
func randomTree(t testing.TB, dir string, r *rand.Rand) {
	folders := []string{dir}
	for range 40 {
		in := folders[r.IntN(len(folders))]
		p := filepath.Join(in, string("abc"[r.IntN(3)]))
		switch r.IntN(3) {
		case 0:
			if os.Mkdir(p, 0o755) == nil {
				folders = append(folders, p)
			}
		case 1:
			if _, err := os.Lstat(p); err != nil {
				os.WriteFile(p, nil, 0o644)
			}
		case 2:
			os.Symlink(randomName(r), p)
		}
	}
}

func randomName(r *rand.Rand) string {
	var parts []string
	for range 1 + r.IntN(4) {
		parts = append(parts, []string{"a", "b", "c", "..", ".", ""}[r.IntN(6)])
	}
	return strings.Repeat("/", r.IntN(2)) + strings.Join(parts, "/")
}

// The kernel knows the way below a root, too: openat2(2) with RESOLVE_IN_ROOT. Where it arrives, walkTo does, and nowhere else.
func TestWalkToIsTheKernel(t *testing.T) {
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 60 {
		dir := t.TempDir()
		randomTree(t, dir, r)
		top, err := os.Open(dir)
		must(t, err)
		for range 100 {
			name := randomName(r)
			how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
			var want unix.Stat_t
			relative := strings.TrimLeft(name, "/")
			fd, kernelErr := unix.Openat2(int(top.Fd()), at(relative), &how)
			if kernelErr == nil {
				must(t, unix.Fstat(fd, &want))
				unix.Close(fd)
			}
			got, err := walkTo(top, name, nil)
			switch {
			case kernelErr == nil && (err != nil || got.file == nil || got.st.Ino != want.Ino):
				// "file/.." and "file/." are not a way to the kernel, and none to walkTo; the other way round there may be one.
				t.Errorf("walkTo(%q) = %+v, %v; the kernel finds inode %d", name, got, err, want.Ino)
			case errors.Is(kernelErr, unix.ELOOP) && err == nil && got.file != nil:
				t.Errorf("walkTo(%q) = %q; the kernel finds a loop", name, got.path)
			case kernelErr != nil && err == nil && got.file != nil && !strings.Contains(name, ".") && !strings.HasSuffix(name, "/") && !dotsIn(dir):
				t.Errorf("walkTo(%q) = %q; the kernel says %v", name, got.path, kernelErr)
			}
			got.close()
		}
		top.Close()
	}
}

// dotsIn tells whether a link of the tree has a point in it: "missing/.." is nothing to the kernel.
func dotsIn(dir string) (is bool) {
	filepath.WalkDir(dir, func(p string, _ os.DirEntry, _ error) error {
		target, _ := os.Readlink(p)
		is = is || strings.Contains(target, ".") || strings.HasSuffix(target, "/")
		return nil
	})
	return is
}

// A path that the walk gave must not become a way out because somebody exchanges a folder for a link.
func TestSwap(t *testing.T) {
	context, host, image := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(host+"/secret", []byte("the host's"), 0o600))
	must(t, os.MkdirAll(context+"/s/d/e", 0o755))
	must(t, os.WriteFile(context+"/s/d/e/deep", []byte("the context's"), 0o644))
	must(t, os.Mkdir(host+"/e", 0o755))
	must(t, os.WriteFile(context+"/s/d/secret", []byte("the context's"), 0o644))
	must(t, os.WriteFile(context+"/s/file", []byte("the context's"), 0o644))
	must(t, os.Symlink(host, context+"/link"))
	must(t, os.Symlink(host+"/secret", context+"/filelink"))
	must(t, os.MkdirAll(image+"/to/d/e", 0o755))
	must(t, os.Symlink(host, image+"/link"))

	var stop atomic.Bool
	var wg sync.WaitGroup
	swap := func(a, b string) {
		wg.Go(func() {
			for !stop.Load() {
				unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		})
	}
	swap(context+"/s/d", context+"/link")
	swap(context+"/s/file", context+"/filelink")
	swap(image+"/to/d", image+"/link")
	defer func() { stop.Store(true); wg.Wait() }()

	root, err := NewRoot(t.Context(), openTree(t, context))
	must(t, err)
	defer root.Close()
	for range 200 {
		out := t.TempDir()
		for _, to := range []string{out, image} {
			for _, source := range []string{"s", "s/d", "s/file"} {
				plan, err := Instruction{Sources: []string{source}, Dest: "/to/"}.Resolve(t.Context(), root)
				if err != nil {
					continue // it was a link at the moment, and that leads to nothing
				}
				plan.Digest(t.Context())
				plan.Copy(t.Context(), openTree(t, to))
			}
		}
		for _, name := range []string{"to/d/secret", "to/file", "to/secret", "to/d"} {
			if text, _ := os.ReadFile(filepath.Join(out, name)); strings.Contains(string(text), "the host's") && !isLink(filepath.Join(out, name)) && !isLink(filepath.Join(out, "to/d")) {
				t.Fatalf("%s has the host's file", name)
			}
		}
		list, err := os.ReadDir(host)
		if err != nil || len(list) != 2 {
			t.Fatalf("the host's folder has %v, %v", list, err)
		}
		if list, err = os.ReadDir(host + "/e"); err != nil || len(list) > 0 {
			t.Fatalf("the host's folder below has %v, %v", list, err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if text, _ := os.ReadFile(host + "/secret"); string(text) != "the host's" {
		t.Errorf("the host's file is %q", text)
	}
}

func isLink(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// listSeen lists what a walk with patterns sees, without the folders.
func listSeen(t testing.TB, dir string, ignore []string) ([]string, error) {
	top, err := os.Open(dir)
	must(t, err)
	defer top.Close()
	p, err := newPatterns(ignore)
	if err != nil {
		return nil, err
	}
	root := &Root{top: top, ignore: p}
	var seen []string
	w := walk{root: root, visit: func(e *entry) error {
		if !e.isDir() {
			seen = append(seen, e.path)
		}
		return nil
	}}
	here, err := placeAt(top, "")
	must(t, err)
	defer here.close()
	err = w.from(context.Background(), &here)
	slices.Sort(seen)
	return seen, err
}

var ignoreTree = []string{"a", "b", "ab", "a.md", "d/a", "d/b", "d/a.md", "d/e/a", "d/e/ab", "d/e/f/a.md", "de/a", ".x", "d/.x", "a b/c"}

func makeNames(t testing.TB, dir string) {
	for _, name := range ignoreTree {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, nil, 0o644))
	}
}

// FuzzIgnore: a walk that leaves out folders sees the same files as if each had been asked for by its whole name.
func FuzzIgnore(f *testing.F) {
	for _, text := range []string{"", "*", "**\n!d/e", "d\n!d/e/a", "d\n!d/**/a.md", "*\n!*.md\nd/a.md", "**/a\n!**/e/a", "d/*\n!d/e\nd/e/f",
		"/d\n", "!d", "d/\n!d/?", "[ab]\n", "d*\n!de", "**/e\n!d/e/*b", "a b", "#x\n\n", "!", "d/..", "../a", "\\a", "**", "d/**\n!**/*.md", "[", "*/a\n!*"} {
		f.Add(text)
	}
	dir := f.TempDir()
	makeNames(f, dir)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 {
			return
		}
		p, err := readIgnore(ignoreName, []byte(text))
		if err != nil {
			return
		}
		var list []string
		if p != nil {
			for _, one := range p.m.Patterns() {
				s := one.String()
				if one.Exclusion() {
					s = "!" + s
				}
				list = append(list, s)
			}
		}
		// MatchesOrParentMatches would now and then say something else ("*/a", "!*" about d/a). Docker walks, too.
		var want []string
		for _, name := range ignoreTree {
			is, _, err := p.matchPath(name)
			if err != nil {
				return
			}
			if !is {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		got, err := listSeen(t, dir, list)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: sees %q, %v; want %q", list, got, err, want)
		}
	})
}

// FuzzSource: a pattern finds what filepath.Match says, and what is no pattern one name at most; a copy of it stays in the root.
func FuzzSource(f *testing.F) {
	for _, text := range []string{"*", "d/*", "*/a", "d/e/?", "[a-b]", "[", "../*", "/", "", ".", "**", "**/a.md", "\\*", "d/../a", "a b/*", "[^a]*", "d/[/]"} {
		f.Add(text, "/x/")
	}
	dir := f.TempDir()
	makeNames(f, dir)
	top, err := os.Open(dir)
	must(f, err)
	root := &Root{top: top, context: true}
	f.Fuzz(func(t *testing.T, source, dest string) {
		if len(source) > 100 || len(dest) > 100 {
			return
		}
		plan, err := Instruction{Sources: []string{source}, Dest: dest}.Resolve(t.Context(), root)
		if err != nil {
			var own *Error
			if !errors.As(err, &own) || strings.ContainsAny(err.Error(), "\n\x1b\x00") {
				t.Errorf("Resolve(%q): %q", source, err)
			}
			return
		}
		defer plan.Close()
		if name := path.Join("/", source); hasGlob(name) {
			var want, got []string
			for _, p := range append(slices.Clone(ignoreTree), "d", "d/e", "d/e/f", "de", "a b") {
				if ok, _ := path.Match(strings.TrimPrefix(name, "/"), p); ok {
					want = append(want, p)
				}
			}
			for _, s := range plan.sources {
				got = append(got, s.path)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) && !strings.Contains(source, "\\") && !strings.Contains(source, "[") {
				t.Errorf("%q finds %q; want %q", source, got, want)
			}
		}
		out := t.TempDir()
		must(t, os.Mkdir(out+"/root", 0o755))
		if _, err := plan.Copy(t.Context(), openTree(t, out+"/root")); err != nil && strings.ContainsAny(err.Error(), "\n\x1b\x00") {
			t.Errorf("Copy(%q, %q): %q", source, dest, err)
		}
		if list, err := os.ReadDir(out); err != nil || len(list) != 1 {
			t.Errorf("Copy(%q, %q): outside there are %v, %v", source, dest, list, err)
		}
	})
}

func TestModes(t *testing.T) {
	for _, c := range []struct {
		text       string
		file, want uint32
	}{
		{"755", unix.S_IFREG | 0o600, 0o755}, {"0", unix.S_IFREG | 0o600, 0}, {"7777", unix.S_IFREG | 0o600, 0o7777},
		{"u+x", unix.S_IFREG | 0o644, 0o744}, {"a=r", unix.S_IFREG | 0o777, 0o444}, {"go=rX", unix.S_IFDIR | 0o700, 0o755},
		{"go=rX", unix.S_IFREG | 0o600, 0o644}, {"u+s,g+s", unix.S_IFREG | 0o755, 0o6755}, {"+t", unix.S_IFDIR | 0o777, 0o1777},
		{"", unix.S_IFREG | 0o4711, 0o4711},
	} {
		m, err := parseMode(c.text)
		if err != nil {
			t.Errorf("parseMode(%q): %v", c.text, err)
			continue
		}
		if got := m.of(c.file); got != c.want {
			t.Errorf("--chmod=%s of %o = %o; want %o", c.text, c.file, got, c.want)
		}
	}
	for _, bad := range []string{"8", "10000", "-1", "u", "rwx", "u+q", "0x1ff", "99999999999999999999", "\x1b"} {
		if _, err := parseMode(bad); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("parseMode(%q) = %v; want an error", bad, err)
		}
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	if m, err := parseMode("+x"); err != nil || m.of(0o644) != 0o755 {
		t.Errorf("the builder's umask counts: %o, %v", m.of(0o644), err)
	}
}

func TestOwners(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, []string{"d etc 755", `f etc/passwd 644 root:x:0:0::/:\napp:x:1000:1001::/:\nneg:x:-5:-5::/:\n`, `f etc/group 644 root:x:0:\nstaff:x:50:\n`}, sourceTime)
	tree := openTree(t, dir)
	for who, want := range map[string][2]int{"app": {1000, 1001}, "app:staff": {1000, 50}, "app:7": {1000, 7}, "5": {5, 5}, "5:staff": {5, 50}, "0:0": {0, 0}} {
		uid, gid, err := Owner(t.Context(), tree, who)
		if got := [2]int{uid, gid}; err != nil || got != want {
			t.Errorf("Owner(%q) = %v, %v; want %v", who, got, err, want)
		}
	}
	for _, bad := range []string{":", "app:", ":staff", "a:b:c", "nobody", "app:nogroup", "4294967295", "99999999999", "neg"} {
		if uid, gid, err := Owner(t.Context(), tree, bad); err == nil {
			t.Errorf("Owner(%q) = %d:%d; want an error", bad, uid, gid)
		}
	}
	must(t, os.Remove(dir+"/etc/passwd"))
	must(t, unix.Mkfifo(dir+"/etc/passwd", 0o644))
	if _, _, err := Owner(t.Context(), tree, "app"); !errors.Is(err, errIrregular) {
		t.Errorf("passwd is a FIFO: %v", err)
	}
	must(t, os.Remove(dir+"/etc/passwd"))
	must(t, os.Symlink("/etc/passwd", dir+"/etc/passwd"))
	if _, _, err := Owner(t.Context(), tree, "app"); err == nil {
		t.Error("passwd is a link to itself, and nothing is said")
	}
}

func TestQuoted(t *testing.T) {
	for _, name := range []string{"a\nb", "\x1b[2J", strings.Repeat("x", 5000), "\x00"} {
		if got := quoted(name); strings.ContainsAny(got, "\n\x1b\x00") || len(got) > 300 {
			t.Errorf("quoted(%q) = %s", name, got)
		}
	}
}

// What RUN --mount=type=bind shows is the folder itself, unless something in it is hidden: then it is all but that.
func TestBind(t *testing.T) {
	dir, scratch := t.TempDir(), t.TempDir()
	makeTree(t, dir, []string{"d s 755", "f s/a 644 A", "f s/b 644 B", "l l s", "l out /etc"}, sourceTime)
	root := hostileRoot(t, dir, true)
	names := func(name string) []string {
		t.Helper()
		f, err := root.Bind(t.Context(), name, scratch)
		must(t, err)
		defer f.Close()
		list, err := os.ReadDir(through(f))
		must(t, err)
		var all []string
		for _, e := range list {
			all = append(all, e.Name())
		}
		return all
	}
	if got := names("l"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("through a link: %v", got)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("a copy that nobody needs: %v, %v", left, err)
	}
	if _, err := root.Bind(t.Context(), "out", scratch); err == nil {
		t.Error("a link out of the context was followed")
	}
	var err error
	root.ignore, err = newPatterns([]string{"**/b", "l", "out"})
	must(t, err)
	if got := names("."); !slices.Equal(got, []string{"s"}) {
		t.Errorf("with patterns: %v", got)
	}
}
