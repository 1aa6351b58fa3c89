package files

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
)

// refusedCopy carries out an instruction that must be refused with one line.
func refusedCopy(t *testing.T, in Instruction, root *Root, want string) {
	t.Helper()
	image := t.TempDir()
	plan, err := in.Resolve(t.Context(), root)
	if err == nil {
		defer plan.Close()
		_, err = plan.Copy(t.Context(), openTree(t, image))
	}
	if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\n\x1b") || strings.Contains(err.Error(), "/proc/") {
		t.Errorf("%s %.100q to %.100q: %.300v; want one line with %q", in.word(), in.Sources, in.Dest, err, want)
	}
}

func hostileRoot(t *testing.T, dir string, context bool) *Root {
	root, err := NewRoot(t.Context(), openTree(t, dir))
	must(t, err)
	t.Cleanup(func() { root.Close() })
	root.context = context
	return root
}

func TestReservedNames(t *testing.T) {
	coursetest.NeedRoot(t)
	dir := t.TempDir()
	makeTree(t, dir, []string{"d s 755", "f s/.wh.passwd 644 x", "f .wh.a 644 x", "f b 644 x", "d dev 755"}, sourceTime)
	must(t, unix.Mknod(dir+"/dev/zero", unix.S_IFCHR, 0))
	must(t, unix.Mknod(dir+"/dev/null", unix.S_IFCHR, int(unix.Mkdev(1, 3))))
	for name, h := range map[string]tar.Header{
		"a.tar": {Name: "x/.wh.y", Typeflag: tar.TypeReg}, "b.tar": {Name: ".wh.x/y", Typeflag: tar.TypeReg},
		"c.tar": {Name: "x", Typeflag: tar.TypeChar}, "d.tar": {Name: "x/../../y", Typeflag: tar.TypeReg},
		"e.tar": {Name: "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}, "f.tar": {Name: "\x1b[2J/../x", Typeflag: tar.TypeReg},
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), tarOf(t, h), 0o644))
	}
	context, stage := hostileRoot(t, dir, true), hostileRoot(t, dir, false)
	for _, c := range []struct {
		source, dest, want string
		root               *Root
	}{
		{"s", "/etc", ".wh.", context}, {".wh.a", "/etc/", ".wh.", context}, {"b", "/.wh.b", ".wh.", context}, {"b", "/.wh.d/b", ".wh.", context},
		{"a.tar", "/", ".wh.", context}, {"b.tar", "/", ".wh.", context}, {"c.tar", "/", "whiteout", context}, {"d.tar", "/", "upwards", context},
		{"e.tar", "/", "no such file", context}, {"f.tar", "/", "upwards", context},
		{"dev", "/x", "a build context has none", context}, {"dev", "/x", "whiteout", stage},
	} {
		refusedCopy(t, Instruction{Add: true, Sources: []string{c.source}, Dest: c.dest}, c.root, c.want)
	}
	image := t.TempDir()
	plan, err := Instruction{Sources: []string{"dev/null"}, Dest: "/null"}.Resolve(t.Context(), stage)
	must(t, err)
	_, err = plan.Copy(t.Context(), openTree(t, image))
	must(t, err)
	var st unix.Stat_t
	if err := unix.Stat(image+"/null", &st); err != nil || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("a device of a stage: %+v, %v", st, err)
	}
}

func TestTooMuch(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/big", nil, 0o644))
	must(t, os.Truncate(dir+"/big", maxBytes+1))
	root := hostileRoot(t, dir, true)
	for _, source := range []string{"big", ".", "*"} {
		in := Instruction{Sources: []string{source}, Dest: "/x/"}
		refusedCopy(t, in, root, "more than")
		plan, err := in.Resolve(t.Context(), root)
		if err == nil {
			if _, err = plan.Digest(t.Context()); !errors.Is(err, unix.EFBIG) {
				t.Errorf("Digest of %q: %v", source, err)
			}
		}
	}

	deep := t.TempDir()
	at, err := os.OpenRoot(deep)
	must(t, err)
	for range maxDepth + 2 {
		must(t, at.Mkdir("d", 0o755))
		next, err := at.OpenRoot("d")
		must(t, err)
		must(t, at.Close())
		at = next
	}
	must(t, at.Close())
	refusedCopy(t, Instruction{Sources: []string{"."}, Dest: "/x/"}, hostileRoot(t, deep, true), "folders deep")
	refusedCopy(t, Instruction{Sources: []string{"big"}, Dest: strings.Repeat("/x", 1500)}, root, "name too long")
	refusedCopy(t, Instruction{Sources: []string{"big"}, Dest: "/" + strings.Repeat("x", 300)}, root, "name too long")
	refusedCopy(t, Instruction{Sources: []string{strings.Repeat("x/", 3000)}, Dest: "/x"}, root, "not found")
}

// An archive is a few kilobytes, and what is in it fills the disk.
func TestBomb(t *testing.T) {
	if testing.Short() {
		t.Skip("it unpacks a gigabyte")
	}
	dir := t.TempDir()
	var header bytes.Buffer
	w := tar.NewWriter(&header)
	must(t, w.WriteHeader(&tar.Header{Name: "zero", Typeflag: tar.TypeReg, Size: 2 << 30}))
	bomb := compressZeros(t, header.Bytes(), 3*freeRatio/2)
	must(t, os.WriteFile(dir+"/bomb", bomb, 0o644))
	refusedCopy(t, Instruction{Add: true, Sources: []string{"bomb"}, Dest: "/"}, hostileRoot(t, dir, true), "grows more than")
}

func compressZeros(t *testing.T, head []byte, n int) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(head)
	must(t, err)
	zeros := make([]byte, 1<<20)
	for ; n > 0; n -= len(zeros) {
		_, err := w.Write(zeros)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}
