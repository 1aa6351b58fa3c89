package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// kinds: three ways to ask for one, and where each lies.
func kinds(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	store, err := OpenStore(filepath.Join(p.dir, "volumes"))
	if err != nil {
		return err
	}
	var list []Mount
	for _, spec := range []string{"/anonymous", "cache:/named", p.host + ":/host"} {
		m, err := ParseVolume(spec)
		if err != nil {
			return err
		}
		name := m.Source
		if m.Type == TypeVolume {
			v, err := store.Create(m.Source, nil)
			if err != nil {
				return err
			}
			name, m.Source = v.Name, v.Mountpoint()
			m.Type = TypeBind
		}
		list = append(list, m)
		t.See("-v %s: %s", strings.Replace(spec, p.dir+"/", "…/", 1), strings.Replace(m.Source, p.dir+"/", "…/", 1))
		if m.Target == "/anonymous" {
			t.Check(len(name) == 64, "64 digits", name, "a volume without a name has a number for one")
		}
	}
	t.Equal(filepath.Join(p.dir, "volumes/cache/_data"), list[1].Source, "a named one lies under its name, in _data")
	box, err := inside(t.Untraced(), t, p, list...)
	if err != nil {
		return err
	}
	for _, m := range list {
		t.Equal(identity(m.Source), identity(in(box, m.Target)), "%s inside is that folder", m.Target)
	}

	if err := store.Use("cache", "box"); err != nil {
		return err
	}
	refusal := store.Remove("cache")
	t.See("removing the volume while a container has it: %s", lastPart(refusal))
	t.Check(refusal != nil, ErrInUse, lastPart(refusal), "a volume in use is not removed")
	if err := store.Release("cache", "box"); err != nil {
		return err
	}
	removed, err := store.Prune(t.Context(), false)
	if err != nil {
		return err
	}
	left, err := store.List()
	if err != nil {
		return err
	}
	t.See("prune removes %s volume, %s is left: %s", str(len(removed)), str(len(left)), left[0].Name)
	t.Equal("1 cache", str(len(removed))+" "+left[0].Name, "prune takes the one without a name, and leaves the other")
	return nil
}

// copyUp: a new volume begins with the image's files.
func copyUp(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	own := filepath.Join(p.root, "var/db")
	if err := makeFolders(own); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(own, "schema"), []byte("from the image\n"), 0o640); err != nil {
		return err
	}
	if err := os.Chmod(own, 0o750); err != nil {
		return err
	}
	store, err := OpenStore(filepath.Join(p.dir, "volumes"))
	if err != nil {
		return err
	}
	fresh, err := store.Create("fresh", nil)
	if err != nil {
		return err
	}
	used, err := store.Create("used", nil)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(used.Mountpoint(), "mine"), nil, 0o644); err != nil {
		return err
	}
	for _, v := range []*Volume{fresh, used} {
		err := openTree(t.Untraced(), p.root, func(root *rootfs.Tree) error {
			_, err := v.Populate(t.Context(), root, "/var/db")
			return err
		})
		if err != nil {
			return err
		}
	}
	t.See("the image has in /var/db: %s, mode %s", names(own), mode(own))
	t.See("the new volume: %s, mode %s; the used one: %s, mode %s",
		names(fresh.Mountpoint()), mode(fresh.Mountpoint()), names(used.Mountpoint()), mode(used.Mountpoint()))
	t.Equal("from the image", text(filepath.Join(fresh.Mountpoint(), "schema")), "the new volume has the image's files")
	t.Equal(mode(own)+" "+mode(filepath.Join(own, "schema")),
		mode(fresh.Mountpoint())+" "+mode(filepath.Join(fresh.Mountpoint(), "schema")), "with their modes, and that of the folder")
	t.Equal("mine", names(used.Mountpoint()), "one that had files has got none")
	box, err := inside(t.Untraced(), t, p, Mount{Type: TypeBind, Source: fresh.Mountpoint(), Target: "/var/db"})
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "07-write", "/var/db/schema", "changed\n"); err != nil {
		return err
	}
	t.See("the box has changed the file; the volume's reads: %s; the image's reads: %s",
		text(filepath.Join(fresh.Mountpoint(), "schema")), text(filepath.Join(own, "schema")))
	t.Equal("changed, from the image", text(filepath.Join(fresh.Mountpoint(), "schema"))+", "+text(filepath.Join(own, "schema")),
		"the volume has a copy: the image keeps its own")
	return nil
}

// mode is a file's permissions, in octal.
func mode(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%04o", st.Mode&0o7777)
}

// layer: a volume is not in the container's layer.
func layer(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	upper, work := filepath.Join(p.dir, "upper"), filepath.Join(p.dir, "work")
	lower := filepath.Join(p.dir, "image")
	if err := makeFolders(upper, work, filepath.Join(lower, "etc")); err != nil {
		return err
	}
	u, err := unionfs.Mount(only(t, "move_mount", "mount("), unionfs.Overlay, unionfs.Layers{Lower: []string{lower}, Upper: upper, Work: work}, p.root)
	if err != nil {
		return err
	}
	t.Cleanup(func(ctx context.Context) error { return u.Unmount(ctx) })
	box, err := inside(only(t, "mkdirat", "move_mount"), t, p, Mount{Type: TypeBind, Source: p.host, Target: "/data"})
	if err != nil {
		return err
	}
	for _, file := range []string{"/data/kept", "/etc/changed"} {
		if _, err := box.Call(t.Untraced(), "07-write", file, "x\n"); err != nil {
			return err
		}
	}
	t.See("the box has written /data/kept and /etc/changed")
	t.See("its read-write layer has: %s; in data: %s; in etc: %s", names(upper), names(filepath.Join(upper, "data")), names(filepath.Join(upper, "etc")))
	t.See("the volume has: %s", names(p.host))
	t.Equal("data etc", names(upper), "the layer has the mount point")
	t.Equal("–", names(filepath.Join(upper, "data")), "and it is empty: a commit takes an empty folder")
	t.Equal("changed", names(filepath.Join(upper, "etc")), "what was written beside it is in the layer")
	t.Equal("kept", names(p.host), "what was written to the volume is in the volume")
	return nil
}
