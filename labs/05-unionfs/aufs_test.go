package unionfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAufsData(t *testing.T) {
	data, err := aufsData(branchesOf(Layers{Upper: "/a", Lower: []string{"/b", "/c d"}}))
	if want := "br=/a=rw:/b=ro+wh:/c d=ro+wh"; data != want || err != nil {
		t.Errorf("aufsData = %q, %v; want %q", data, err, want)
	}
	for _, path := range []string{"/a:b", "/a=rw", "/a,b"} {
		if _, err := aufsData([]Branch{{path, RW}}); !errors.Is(err, ErrBranchName) {
			t.Errorf("aufsData(%q): %v; want ErrBranchName", path, err)
		}
	}
}

// TestAufsListing reads a listing in the form of /sys/fs/aufs/si_ID, in which names do not sort like numbers.
func TestAufsListing(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 12 {
		name := "br" + string(rune('0'+i))
		if i > 9 {
			name = "br1" + string(rune('0'+i-10))
		}
		want = append(want, "/"+name+"=ro+wh")
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("/"+name+"=ro+wh\n"), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "brid0"), []byte("64\n"), 0o644)) // the kernel has more files there
	got, err := readListing(dir)
	if !slices.Equal(got, want) || err != nil {
		t.Errorf("readListing = %q, %v; want %q", got, err, want)
	}
}

// TestAufsKernel mounts the kernel's aufs where there is one, and wants to hear why there is none elsewhere.
func TestAufsKernel(t *testing.T) {
	ctx, dir := own(t)
	l, c := onC(t, dir)
	u, err := Mount(ctx, Aufs, l, c)
	if !HasAufs(ctx) {
		var e *Error
		if !errors.Is(err, unix.ENODEV) || !errors.As(err, &e) {
			t.Fatalf("Mount without aufs: %v; want an Error with ENODEV", err)
		}
		for _, c := range e.Conditions() {
			if c.What == "the kernel knows the file system" && !c.OK {
				return
			}
		}
		t.Fatalf("conditions of %v: %v; want one that aufs is not known", err, e.Conditions())
	}
	must(t, err)
	list, err := u.Branches()
	must(t, err)
	if !slices.Equal(list, branchesOf(l)) {
		t.Errorf("Branches() = %v; want %v", list, branchesOf(l))
	}
	must(t, u.Unmount(ctx))
}
