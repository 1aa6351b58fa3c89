package unionfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/course"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// layerCount is more than aufs takes, and more than Docker allows.
const layerCount = 160

// manyLayers: more layers than fit into the arguments of mount(2).
func manyLayers(t *course.T) error {
	dir, err := bench(t)
	if err != nil {
		return err
	}
	var l Layers
	for i := range layerCount {
		name := fmt.Sprintf("layer-%03d", i)
		if err := makeFiles(dir, name+"/file-"+name[6:], name+"/top"); err != nil {
			return err
		}
		l.Lower = append(l.Lower, filepath.Join(dir, name))
	}
	if err := makeFiles(dir, "merged/"); err != nil {
		return err
	}
	// Each layer is a call where the kernel has lowerdir+; one shows the pattern.
	if _, err := unite(brief(t, 2, `"lowerdir+"`), t, Overlay, l, dir+"/merged"); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir + "/merged")
	if err != nil {
		return err
	}
	data := len(overlayData(l.Lower, l))
	t.See("as one option string the names of %s layers would be %s bytes long; mount(2) takes %s", str(layerCount), str(data), str(os.Getpagesize()-1))
	t.See("merged has %s entries; top reads: %s", str(len(entries)), text(dir+"/merged/top"))
	t.Check(data >= os.Getpagesize(), "more than a page", data, "the names are too long for mount(2)")
	t.Equal(layerCount+1, len(entries), "there is a file of each layer, and one that all of them have")
	t.Equal("of layer-000", text(dir+"/merged/top"), "which is that of the topmost")
	err = os.WriteFile(dir+"/merged/new", nil, 0o644)
	t.See("writing to it: %s", said(err))
	t.Equal("EROFS", said(err), "without an upper folder the union is read-only")
	return nil
}

// refused: what overlay requires of its folders.
func refused(t *course.T) error {
	dir, err := classic(t.Untraced(), t, "U/", "work2/", "elsewhere/", "D/")
	if err != nil {
		return err
	}
	if err := disk(t.Untraced(), t, dir+"/elsewhere", 1<<20); err != nil {
		return err
	}
	for _, c := range []struct {
		layers      Layers
		want, unmet string
		check       string
	}{
		{
			layers: Layers{Lower: []string{dir + "/B", dir + "/missing"}, Upper: dir + "/U", Work: dir + "/work2"},
			want:   "ENOENT", unmet: "every folder is there", check: "a branch is missing: ENOENT",
		},
		{
			layers: Layers{Lower: []string{dir + "/B"}, Upper: dir + "/U", Work: dir + "/elsewhere"},
			want:   "EINVAL", unmet: "work and upper lie in the same mount", check: "the work folder is on another file system: EINVAL",
		},
		{
			layers: Layers{Lower: []string{dir + "/B"}, Upper: dir + "/A", Work: dir + "/work2"},
			want:   "EBUSY", unmet: "no other overlay uses work or upper", check: "the upper folder is another union's: refused by the stage",
		},
	} {
		u, err := Mount(t.Context(), Overlay, c.layers, dir+"/D")
		if err == nil {
			t.Cleanup(unmounting(u))
		}
		t.See("lower %s, upper %s, work %s: %s", strings.Join(bases(c.layers.Lower), " "), filepath.Base(c.layers.Upper), filepath.Base(c.layers.Work), said(err))
		broken := t.Diagnose(err)
		t.Check(said(err) == c.want && slices.Contains(broken, c.unmet), c.want+", "+c.unmet, said(err)+", "+unmet(broken), c.check)
	}
	m, err := mount.IsMountPoint(dir + "/D")
	if err != nil {
		return err
	}
	t.Equal(false, m, "nothing is left mounted on the target")
	return nil
}

func bases(paths []string) (names []string) {
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	return names
}

// full: the upper folder has no room for a copy.
func full(t *course.T) error {
	dir, err := t.Dir()
	if err != nil {
		return err
	}
	if err := makeFiles(dir, "B/small", "up/", "C/"); err != nil {
		return err
	}
	big := strings.Repeat("0123456789abcdef", 32<<10) // 512 KiB
	if err := os.WriteFile(dir+"/B/big", []byte(big), 0o644); err != nil {
		return err
	}
	if err := disk(t.Context(), t, dir+"/up", 256<<10); err != nil {
		return err
	}
	if err := makeFiles(dir, "up/A/", "up/work/"); err != nil {
		return err
	}
	l := Layers{Lower: []string{dir + "/B"}, Upper: dir + "/up/A", Work: dir + "/up/work"}
	if _, err := unite(t.Context(), t, Overlay, l, dir+"/C"); err != nil {
		return err
	}
	before := identity(dir + "/B/big")
	err = do(t, `open("C/big", O_WRONLY|O_APPEND)`, func() error { return appendTo(dir+"/C/big", "x") })
	t.See("a line for a file of 512 KiB, on an upper folder of 256 KiB: %s", said(err))
	t.Equal("ENOSPC", said(err), "the whole file would have to be copied: ENOSPC")
	now, err := os.ReadFile(dir + "/C/big")
	if err != nil {
		return err
	}
	t.See("C/big has %s bytes · A has %s · B/big is inode %s, it was %s", str(len(now)), list(dir+"/up/A"), identity(dir+"/B/big"), before)
	t.Equal(true, string(now) == big, "the union still shows the old content, whole")
	t.Equal("–", list(dir+"/up/A"), "no half copy is left in the upper folder")
	t.Equal(before, identity(dir+"/B/big"), "the lower file is what it was")
	err = do(t, `open("C/small", O_WRONLY|O_APPEND), write`, func() error { return appendTo(dir+"/C/small", "x") })
	t.See("a small file: %s", said(err))
	t.Equal("ok", said(err), "a file that fits can still be changed")
	return nil
}
