package files

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
)

var someFiles = []string{"d s 755", "f s/a 644 A", "f s/b 755 B", "l s/l a", "d s/t 700", "f s/t/c 644 C", "p s/p 644"}

// digestOf makes the files anew, changes them, and asks for the digest.
func digestOf(t *testing.T, in Instruction, stage bool, change func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	makeTree(t, dir, someFiles, time.Now().Add(-time.Hour))
	if change != nil {
		change(dir)
	}
	root, err := NewRoot(t.Context(), openTree(t, dir))
	must(t, err)
	defer root.Close()
	root.context = !stage
	if in.Sources == nil {
		in.Sources, in.Dest = []string{"s"}, "/x"
	}
	plan, err := in.Resolve(t.Context(), root)
	must(t, err)
	defer plan.Close()
	d, err := plan.Digest(t.Context())
	must(t, err)
	return string(d)
}

func TestDigest(t *testing.T) {
	coursetest.NeedRoot(t)
	first := digestOf(t, Instruction{}, false, nil)
	stage := digestOf(t, Instruction{}, true, nil)
	write := func(name, text string) func(string) {
		return func(dir string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)) }
	}
	link := func(dir string) {
		must(t, os.Remove(filepath.Join(dir, "s/l")))
		must(t, os.Symlink("b", filepath.Join(dir, "s/l")))
	}
	for name, same := range map[string]bool{
		"nothing":               digestOf(t, Instruction{}, false, nil) == first,
		"a file beside":         digestOf(t, Instruction{}, false, write("other", "x")) == first,
		"another owner":         digestOf(t, Instruction{}, false, func(d string) { must(t, os.Chown(d+"/s/a", 7, 8)) }) == first,
		"owner, but --chown":    digestOf(t, Instruction{Chown: "1:1"}, true, func(d string) { must(t, os.Chown(d+"/s/a", 7, 8)) }) == digestOf(t, Instruction{Chown: "1:1"}, true, nil),
		"mode, but --chmod":     digestOf(t, Instruction{Chmod: "755"}, false, func(d string) { must(t, os.Chmod(d+"/s/a", 0o600)) }) == digestOf(t, Instruction{Chmod: "755"}, false, nil),
		"excluded":              digestOf(t, Instruction{Exclude: []string{"b"}}, false, write("s/b", "x")) == digestOf(t, Instruction{Exclude: []string{"b"}}, false, nil),
		"an attribute of trust": digestOf(t, Instruction{}, false, func(d string) { must(t, unix.Setxattr(d+"/s/a", "trusted.x", []byte("x"), 0)) }) == first,
	} {
		if !same {
			t.Errorf("%s: another digest", name)
		}
	}
	seen := map[string]string{first: "nothing", stage: "a stage"}
	for name, d := range map[string]string{
		"content":       digestOf(t, Instruction{}, false, write("s/a", "B")),
		"content below": digestOf(t, Instruction{}, false, write("s/t/c", "D")),
		"one more":      digestOf(t, Instruction{}, false, write("s/d", "")),
		"another name":  digestOf(t, Instruction{}, false, func(d string) { must(t, os.Rename(d+"/s/a", d+"/s/aa")) }),
		"gone":          digestOf(t, Instruction{}, false, func(d string) { must(t, os.Remove(d+"/s/a")) }),
		"mode":          digestOf(t, Instruction{}, false, func(d string) { must(t, os.Chmod(d+"/s/a", 0o600)) }),
		"folder's mode": digestOf(t, Instruction{}, false, func(d string) { must(t, os.Chmod(d+"/s/t", 0o755)) }),
		"link":          digestOf(t, Instruction{}, false, link),
		"attribute":     digestOf(t, Instruction{}, false, func(d string) { must(t, unix.Setxattr(d+"/s/a", "user.x", []byte("x"), 0)) }),
		"of a folder":   digestOf(t, Instruction{}, false, func(d string) { must(t, unix.Setxattr(d+"/s/t", "user.x", []byte("x"), 0)) }),
		"stage's owner": digestOf(t, Instruction{}, true, func(d string) { must(t, os.Chown(d+"/s/a", 7, 8)) }),
		"kind":          digestOf(t, Instruction{}, false, func(d string) { must(t, os.Remove(d+"/s/p")); write("s/p", "")(d) }),
		"ADD":           digestOf(t, Instruction{Add: true}, false, nil),
		"--chown":       digestOf(t, Instruction{Chown: "1"}, false, nil),
		"--chown 0":     digestOf(t, Instruction{Chown: "0"}, false, nil),
		"--chmod":       digestOf(t, Instruction{Chmod: "755"}, false, nil),
		"--exclude":     digestOf(t, Instruction{Exclude: []string{"zzz"}}, false, nil),
		"--parents":     digestOf(t, Instruction{Parents: true}, false, nil),
		"destination":   digestOf(t, Instruction{Sources: []string{"s"}, Dest: "/y"}, false, nil),
		"a slash":       digestOf(t, Instruction{Sources: []string{"s"}, Dest: "/x/"}, false, nil),
		"workdir":       digestOf(t, Instruction{Sources: []string{"s"}, Dest: "x", Workdir: "/w"}, false, nil),
		"heredoc":       digestOf(t, Instruction{Inline: []Inline{{"h", []byte("x")}}}, false, nil),
		"heredoc's":     digestOf(t, Instruction{Inline: []Inline{{"h", []byte("y")}}}, false, nil),
		"heredoc's n":   digestOf(t, Instruction{Inline: []Inline{{"i", []byte("y")}}}, false, nil),
	} {
		if other, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[d] = name
	}
}

// What a digest is not made of the files that are then copied, the cache must not be told.
func TestChanged(t *testing.T) {
	coursetest.NeedRoot(t)
	for name, change := range map[string]func(dir string){
		"nothing": nil,
		"content": func(d string) { must(t, os.WriteFile(d+"/s/a", []byte("Z"), 0o644)) },
		"back in time": func(d string) {
			must(t, os.WriteFile(d+"/s/a", []byte("Z"), 0o644))
			must(t, os.Chtimes(d+"/s/a", sourceTime, sourceTime))
		},
		"one more": func(d string) { must(t, os.WriteFile(d+"/s/zz", nil, 0o644)) },
		"one less": func(d string) { must(t, os.Remove(d+"/s/t/c")) },
		"mode":     func(d string) { must(t, os.Chmod(d+"/s/a", 0o600)) },
		"link":     func(d string) { must(t, os.Remove(d+"/s/l")); must(t, os.Symlink("b", d+"/s/l")) },
		"kind":     func(d string) { must(t, os.Remove(d+"/s/a")); must(t, os.Mkdir(d+"/s/a", 0o755)) },
	} {
		dir := t.TempDir()
		makeTree(t, dir, someFiles, sourceTime)
		root, err := NewRoot(t.Context(), openTree(t, dir))
		must(t, err)
		defer root.Close()
		plan, err := Instruction{Sources: []string{"s"}, Dest: "/"}.Resolve(t.Context(), root)
		must(t, err)
		_, err = plan.Digest(t.Context())
		must(t, err)
		if change != nil {
			change(dir)
		}
		result, err := plan.Copy(t.Context(), openTree(t, t.TempDir()))
		must(t, err)
		if result.Changed != (change != nil) {
			t.Errorf("%s: Changed = %v", name, result.Changed)
		}
	}
}

// A file is read once, however many instructions want it.
func TestDigestOnce(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, []string{"f a 644 A"}, sourceTime)
	root, err := NewRoot(t.Context(), openTree(t, dir))
	must(t, err)
	defer root.Close()
	digest := func(dest string) string {
		plan, err := Instruction{Sources: []string{"a"}, Dest: dest}.Resolve(t.Context(), root)
		must(t, err)
		d, err := plan.Digest(t.Context())
		must(t, err)
		return string(d)
	}
	digest("/x")
	var n int
	root.sums.Range(func(key, _ any) bool { root.sums.Store(key, sum{1}); n++; return true })
	if n != 1 {
		t.Fatalf("%d sums; want 1", n)
	}
	wrong := digest("/y")
	root.sums.Clear()
	if digest("/y") == wrong {
		t.Error("the second digest has read the file again")
	}
}

func TestIdentify(t *testing.T) {
	digest := func(id string, sources ...string) string {
		dir := t.TempDir()
		makeTree(t, dir, someFiles, sourceTime)
		root, err := NewRoot(t.Context(), openTree(t, dir))
		must(t, err)
		defer root.Close()
		root.Identify(id)
		plan, err := Instruction{Sources: sources, Dest: "/x/"}.Resolve(t.Context(), root)
		must(t, err)
		d, err := plan.Digest(t.Context())
		must(t, err)
		result, err := plan.Copy(t.Context(), openTree(t, t.TempDir()))
		must(t, err)
		if result.Changed {
			t.Error("Changed, but nothing was read")
		}
		return string(d)
	}
	first := digest("a", "s")
	if digest("a", "s") != first || digest("b", "s") == first || digest("a", "s/a") == digest("a", "s/b") {
		t.Error("the digest is not that of the identity and the sources")
	}
}

func TestEpoch(t *testing.T) {
	coursetest.NeedRoot(t)
	dir, image := t.TempDir(), t.TempDir()
	makeTree(t, dir, append([]string{"f old 644 O"}, someFiles...), time.Now())
	must(t, os.Chtimes(dir+"/old", sourceTime, sourceTime))
	epoch := baseTime
	root, err := NewRoot(t.Context(), openTree(t, dir))
	must(t, err)
	defer root.Close()
	in := Instruction{Sources: []string{"s", "old"}, Inline: []Inline{{"i", nil}}, Dest: "/n/o/", Epoch: &epoch}
	plan, err := in.Resolve(t.Context(), root)
	must(t, err)
	_, err = plan.Copy(t.Context(), openTree(t, image))
	must(t, err)
	must(t, filepath.WalkDir(image+"/n", func(p string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		want := epoch
		if strings.HasSuffix(p, "/old") {
			want = sourceTime
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(want) {
			t.Errorf("%s: time %v; want %v", p, got, want)
		}
		return err
	}))
}

func TestCancelled(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, someFiles, sourceTime)
	root, err := NewRoot(t.Context(), openTree(t, dir))
	must(t, err)
	defer root.Close()
	ctx, cancel := context.WithCancel(t.Context())
	plan, err := Instruction{Sources: []string{"s"}, Dest: "/"}.Resolve(ctx, root)
	must(t, err)
	cancel()
	if _, err := plan.Digest(ctx); err == nil {
		t.Error("a digest without end")
	}
	if _, err := plan.Copy(ctx, openTree(t, t.TempDir())); err == nil {
		t.Error("a copy without end")
	}
}
