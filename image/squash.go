package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// Squash makes one layer of several that lie on top of a base, the lowest first.
//
// The topmost is read first: what it has, or takes away, is left out of those under it. So no file is unpacked that another
// one hides. What is taken away that the base does not have leaves no mark: overlay would list it in a folder that is new.
func (d *Draft) Squash(ctx context.Context, layers, base []*Layer, created time.Time, latest *time.Time) (l *Layer, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("squash layers: %w", err)
		}
	}()
	room, err := d.Room(layers[0].dir)
	if err != nil {
		return nil, err
	}
	form, err := unionfs.FormFor(d.c.dir)
	if err != nil {
		return nil, err
	}
	tree, err := rootfs.OpenTree(ctx, filepath.Join(room, "diff"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	var marker rootfs.Marker
	var below *Layer
	if len(base) > 0 {
		below, marker = base[len(base)-1], form.Marker()
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeSquashed(ctx, w, layers, base)) }()
	_, err = rootfs.UnpackLayer(ctx, tree, r, marker, rootfs.TheLimits())
	r.CloseWithError(context.Canceled)
	if err != nil {
		return nil, err
	}
	l = d.Keep(room, below, "", created, latest)
	return l, l.Wait()
}

// writeSquashed writes one tar of several layers.
func writeSquashed(ctx context.Context, w io.Writer, layers, base []*Layer) error {
	out := tar.NewWriter(w)
	above := hiding{}
	for n := len(layers) - 1; n >= 0; n-- {
		l := layers[n]
		if err := l.Wait(); err != nil {
			return err
		}
		form, err := unionfs.FormFor(filepath.Dir(l.dir))
		if err != nil {
			return err
		}
		if err := copyVisible(ctx, out, l.dir, form, above, base); err != nil {
			return err
		}
		if err := above.add(l.dir, form); err != nil {
			return err
		}
	}
	return out.Close()
}

// copyVisible copies what of a layer nothing above hides.
func copyVisible(ctx context.Context, out *tar.Writer, dir string, form unionfs.Form, above hiding, base []*Layer) error {
	r, w := io.Pipe()
	defer r.Close()
	go func() { w.CloseWithError(unionfs.WriteTarExcept(ctx, w, dir, form, above.hides)) }()
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// A folder is in all layers that have something in it, and the topmost says what it is like. The mark that hides what
		// is below counts wherever it is.
		if _, known := above[path.Clean(h.Name)]; known && h.Typeflag == tar.TypeDir {
			continue
		}
		if dir, name := path.Split(h.Name); strings.HasPrefix(name, ".wh.") && name != ".wh..wh..opq" && !anyHas(base, dir+name[len(".wh."):]) {
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

// anyHas says whether one of the layers has something at a path.
func anyHas(layers []*Layer, name string) bool {
	return slices.ContainsFunc(layers, func(l *Layer) bool {
		_, err := os.Lstat(filepath.Join(l.dir, name))
		return err == nil
	})
}

// hiding is what layers have at a path: something that hides what is below there, or a folder, which lets it show through.
type hiding map[string]bool

// hides says whether a path of a lower layer is not to be seen.
func (h hiding) hides(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if h[name] {
			return true
		}
	}
	return false
}

func (h hiding) add(dir string, form unionfs.Form) error {
	return unionfs.Walk(dir, form, func(name string, m *unionfs.Mark, st *unix.Stat_t) error {
		h[name] = h[name] || m != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR
		return nil
	})
}
