package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// Layers returns the folders of an image's layers for a driver, the topmost first, as unionfs.Layers.Lower has them. What
// is not unpacked yet, or not in the driver's form, is unpacked.
func (s *Store) Layers(ctx context.Context, i *Image, d unionfs.Driver) ([]string, error) {
	if d != unionfs.Overlay && d != unionfs.Aufs && d != unionfs.AufsFUSE {
		return nil, fmt.Errorf("%w, not %q", unionfs.ErrUnknownDriver, d)
	}
	chain := i.Chain()
	dirs := make([]string, len(chain))
	top := 0 // where the union ends: a layer may hide all that are below it
	var missing errgroup.Group
	missing.SetLimit(runtime.GOMAXPROCS(0))
	for n := len(chain) - 1; n >= 0; n-- {
		info, err := s.layerInfo(chain[n])
		if err == nil {
			dirs[n], err = s.folderFor(chain[n], info, d)
		}
		if errors.Is(err, fs.ErrNotExist) {
			missing.Go(func() (err error) {
				dirs[n], err = s.unpackStored(ctx, i, n, d)
				return err
			})
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("layer %s: %w", ShortID(string(chain[n])), err), missing.Wait())
		}
		if info.Opaque {
			top = n
			break
		}
	}
	if err := missing.Wait(); err != nil {
		return nil, err
	}
	for n := len(chain) - 1; n > top; n-- { // among those that were unpacked just now
		if info, err := s.layerInfo(chain[n]); err == nil && info.Opaque {
			top = n
		}
	}
	dirs = dirs[top:]
	slices.Reverse(dirs)
	return dirs, nil
}

// folderFor finds the folder of an unpacked layer that has the form which a driver wants; fs.ErrNotExist says that it is
// still to be made.
func (s *Store) folderFor(chain digest.Digest, info layerInfo, d unionfs.Driver) (string, error) {
	dir := s.layerPath(chain, "diff") // which is there, since layer.json is
	if info.Marks == 0 {              // without marks all forms are the same
		return dir, nil
	}
	want, err := s.formFor(info.Form, d)
	if err != nil || want == info.Form {
		return dir, err
	}
	dir = s.layerPath(chain, string(want))
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", &fs.PathError{Op: "find", Path: dir, Err: err}
	}
	return dir, nil
}

// formFor is the form that a driver wants. have is what a layer has, which may do.
func (s *Store) formFor(have unionfs.Form, d unionfs.Driver) (unionfs.Form, error) {
	if d == unionfs.Aufs || d == unionfs.AufsFUSE {
		return unionfs.AufsForm, nil
	}
	if have != "" && have.ForUser() {
		return have, nil
	}
	return unionfs.FormFor(s.layers())
}

// unpackStored unpacks layer n of an image from its blob. Of several processes that need it, one does it and the others
// wait.
func (s *Store) unpackStored(ctx context.Context, i *Image, n int, d unionfs.Driver) (dir string, err error) {
	chain := i.Chain()[n]
	defer func() {
		if err != nil {
			err = fmt.Errorf("unpack layer %s of image %s: %w", ShortID(string(chain)), ShortID(i.ID), err)
		}
	}()
	c, err := s.begin(ctx, chain.Encoded())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.abort()) }()
	info, err := s.layerInfo(chain)
	whole := err == nil
	if whole {
		if dir, err = s.folderFor(chain, info, d); !errors.Is(err, fs.ErrNotExist) {
			return dir, err // somebody else has made it while we waited
		}
	}
	form := noMarks
	switch {
	case n == 0:
	case whole:
		form, err = s.formFor("", d)
	default: // diff is always what overlay wants, whoever asks first
		form, err = unionfs.FormFor(c.dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	o := reading{folder: "layer", form: form, settled: true, want: expected{diff: i.Config.RootFS.DiffIDs[n]}}
	if err := c.fromBlob(ctx, i.manifest.Layers[n], o); err != nil {
		return "", err
	}
	if err := unix.Syncfs(int(c.lock.Fd())); err != nil {
		return "", storeError("write layers to the disk", err)
	}
	unpacked := filepath.Join(c.dir, "layer")
	if whole {
		err = os.Rename(filepath.Join(unpacked, "diff"), s.layerPath(chain, string(form)))
	} else {
		// A folder that is not whole: of before the machine was booted, or somebody has been at the store by hand.
		err = removeTree(s.layerPath(chain))
		if err == nil {
			err = os.Rename(unpacked, s.layerPath(chain))
		}
	}
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		err = nil // somebody else was faster; it is the same
	}
	if err == nil {
		err = syncFolder(s.layers())
	}
	if err != nil {
		return "", err
	}
	if info, err = s.layerInfo(chain); err != nil {
		return "", err
	}
	dir, err = s.folderFor(chain, info, d)
	if whole || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	// The layer takes something away, and the driver wants that in another form than overlay's.
	if err := c.abort(); err != nil {
		return "", err
	}
	return s.unpackStored(ctx, i, n, d)
}

// fromBlob unpacks a stored layer, or one that this change is going to store, and checks both of its digests on the way.
func (c *change) fromBlob(ctx context.Context, d ocispec.Descriptor, o reading) (err error) {
	if !isDigest(d.Digest) {
		return fmt.Errorf("digest %q: %w", d.Digest, ErrCorrupt)
	}
	blob, err := os.Open(c.path(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		blob, err = os.Open(c.s.blobPath(d.Digest))
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	o.want.blob, o.want.size = d.Digest, d.Size
	_, err = c.ingest(ctx, blob, o)
	return err
}

// Measure fills in the size of an image: that of the files in its layers or, of a layer that is not unpacked, of its blob.
func (s *Store) Measure(i *Image) error {
	sizes, err := s.Sizes(i)
	i.Size = 0
	for _, n := range sizes {
		i.Size += n
	}
	return err
}

// Sizes are those of the layers, the lowest first.
func (s *Store) Sizes(i *Image) ([]int64, error) {
	sizes := make([]int64, len(i.manifest.Layers))
	for n, chain := range i.Chain() {
		info, err := s.layerInfo(chain)
		switch {
		case err == nil:
			sizes[n] = info.Size
		case errors.Is(err, fs.ErrNotExist):
			sizes[n] = i.manifest.Layers[n].Size
		default:
			return nil, fmt.Errorf("layer %s: %w", ShortID(string(chain)), err)
		}
	}
	return sizes, nil
}

// Folders are the folders of an image's layers as they are unpacked, the lowest first; of one that is not, it is where it
// will be.
func (s *Store) Folders(i *Image) []string {
	var dirs []string
	for _, chain := range i.Chain() {
		dirs = append(dirs, s.layerPath(chain, "diff"))
	}
	return dirs
}
