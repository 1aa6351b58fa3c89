package unionfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/course"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// image are the files of the three image layers, the lowest first. The folder's name is the layer's.
var image = []string{
	"1/bin/sh", "1/etc/hosts", "1/etc/motd", "1/usr/lib/libc",
	"2/usr/app/main", "2/usr/app/cache/old",
	"3/etc/app.conf",
	"rw/", "work/", "rootfs/",
}

// container makes the layers and mounts them as a container's root.
func container(ctx context.Context, t *course.T) (string, error) {
	dir, err := bench(t)
	if err != nil {
		return "", err
	}
	if err := makeFiles(dir, image...); err != nil {
		return "", err
	}
	if err := initLayer(t.Untraced(), dir+"/init"); err != nil {
		return "", err
	}
	l := Layers{Lower: []string{dir + "/init", dir + "/3", dir + "/2", dir + "/1"}, Upper: dir + "/rw", Work: dir + "/work"}
	_, err = unite(ctx, t, Overlay, l, dir+"/rootfs")
	return dir, err
}

// initLayer writes the files that belong to this one container: its names, its name servers, and a mark by which
// programs tell that they are in a container.
func initLayer(ctx context.Context, dir string) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	tree, err := rootfs.OpenTree(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	address := netip.MustParseAddr("172.17.0.2")
	etc := rootfs.Etc{
		Hostname: "box", Servers: []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		Hosts: []rootfs.HostEntry{{Address: address, Names: []string{"box"}}},
	}
	if err := rootfs.WriteEtc(ctx, tree, etc); err != nil {
		return err
	}
	for _, name := range []string{"passwd", "group", "nsswitch.conf"} { // an image has its own, below
		if err := os.Remove(filepath.Join(dir, "etc", name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, ".dockerenv"), nil, 0o644)
}

// layers: what a container's root is made of.
func layers(t *course.T) error {
	dir, err := container(t.Context(), t)
	if err != nil {
		return err
	}
	root := dir + "/rootfs"
	l, err := LayersOf(root) // as the mount table has them
	if err != nil {
		return err
	}
	t.See("read-write layer, %s=rw: %s", l.Upper, filesIn(l.Upper))
	for _, path := range l.Lower {
		if filepath.Base(path) == "init" {
			t.See("init layer, %s=ro: %s", path, filesIn(path))
			continue
		}
		t.See("image layer, %s=ro: %s", path, filesIn(path))
	}
	t.Equal(fmt.Sprint([]string{dir + "/init", dir + "/3", dir + "/2", dir + "/1"}), fmt.Sprint(l.Lower), "the init layer lies between the image's layers and the read-write layer")
	t.See("rootfs shows: %s", filesIn(root))
	t.Equal("–", filesIn(dir+"/rw"), "the read-write layer is empty before the container writes")
	t.Equal(".dockerenv etc/hostname etc/hosts etc/resolv.conf", filesIn(dir+"/init"), "the init layer has the files of this one container")
	t.Equal(text(dir+"/init/etc/hosts"), text(root+"/etc/hosts"), "its hosts file hides the image's")
	t.Equal("of 1", text(dir+"/1/etc/hosts"), "which is unchanged")
	if err := do(t, `open("rootfs/etc/motd", O_WRONLY|O_CREAT|O_TRUNC), write`, func() error { return os.WriteFile(root+"/etc/motd", []byte("mine\n"), 0o644) }); err != nil {
		return err
	}
	t.See("the container has written: rw has %s · 1/etc/motd reads: %s", filesIn(dir+"/rw"), text(dir+"/1/etc/motd"))
	t.Equal("etc/motd", filesIn(dir+"/rw"), "what it writes goes to the read-write layer")
	t.Equal("of 1", text(dir+"/1/etc/motd"), "and not to the image, which other containers use too")
	return nil
}

// commit: a new image layer is the read-write layer, and no other.
func commit(t *course.T) error {
	dir, err := container(t.Untraced(), t)
	if err != nil {
		return err
	}
	root := dir + "/rootfs"
	err = do(t, `write etc/motd, unlink("usr/app/main"), rm -r and mkdir("usr/app/cache")`, func() error {
		return errors.Join(
			os.WriteFile(root+"/etc/motd", []byte("mine\n"), 0o644), os.Remove(root+"/usr/app/main"),
			os.RemoveAll(root+"/usr/app/cache"), os.Mkdir(root+"/usr/app/cache", 0o755))
	})
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	if err := WriteTar(t.Context(), &layer, dir+"/rw", overlayForm(t)); err != nil {
		return err
	}
	entries, err := tarNames(layer.Bytes())
	if err != nil {
		return err
	}
	t.See("rw on disk: etc/motd is %s, usr/app/main is %s", ls(dir+"/rw/etc/motd"), ls(dir+"/rw/usr/app/main"))
	t.See("its tar: %s", strings.Join(entries, " "))
	t.Check(slices.Contains(entries, "etc/motd"), "etc/motd", strings.Join(entries, " "), "the commit has what the container wrote")
	t.Check(slices.Contains(entries, "usr/app/.wh.main") && slices.Contains(entries, "usr/app/cache/.wh..wh..opq"),
		"usr/app/.wh.main and usr/app/cache/.wh..wh..opq", strings.Join(entries, " "), "and what it deleted, in the form of image layers")
	own := slices.DeleteFunc(slices.Clone(entries), func(name string) bool { return !strings.Contains(name, "host") && name != ".dockerenv" })
	t.Equal("", strings.Join(own, " "), "but nothing of the init layer")
	return newImage(t, dir)
}

// newImage unpacks the commit as a fourth layer, and mounts the four for another container.
func newImage(t *course.T, dir string) error {
	if err := makeFiles(dir, "rootfs2/"); err != nil {
		return err
	}
	if err := unpackLayer(t.Untraced(), dir+"/rw", dir+"/4", overlayForm(t)); err != nil {
		return err
	}
	if err := Convert(t.Context(), dir+"/4", AufsForm, overlayForm(t)); err != nil {
		return err
	}
	l := Layers{Lower: []string{dir + "/4", dir + "/3", dir + "/2", dir + "/1"}}
	if _, err := unite(t.Untraced(), t, Overlay, l, dir+"/rootfs2"); err != nil {
		return err
	}
	t.See("the new image shows: %s", filesIn(dir+"/rootfs2"))
	t.Equal("bin/sh etc/app.conf etc/hosts etc/motd usr/lib/libc", filesIn(dir+"/rootfs2"), "a container of the new image starts where this one is")
	t.Equal("mine", text(dir+"/rootfs2/etc/motd"), "with its changes")
	t.Equal("of 1", text(dir+"/rootfs2/etc/hosts"), "and the image's own hosts file")
	return nil
}

// unpackLayer writes a layer as an image's, and unpacks it into another folder. There the marks have aufs's form.
func unpackLayer(ctx context.Context, from, to string, f Form) (err error) {
	var layer bytes.Buffer
	if err := WriteTar(ctx, &layer, from, f); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	tree, err := rootfs.OpenTree(ctx, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	_, err = rootfs.Unpack(ctx, tree, &layer)
	return err
}

// tarNames lists what is in a tar.
func tarNames(data []byte) (list []string, err error) {
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, h.Name)
	}
}

// filesIn lists all files below a folder, folders not included.
func filesIn(dir string) string {
	var list []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path) // path begins with dir
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		return said(err)
	}
	if len(list) == 0 {
		return "–"
	}
	return strings.Join(list, " ")
}
