package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// change is something that is being put into the store: blobs and layers in a folder of their own, until commit moves them
// to where they belong. Whoever works in the folder holds a lock on it.
type change struct {
	s      *Store
	dir    string
	lock   *os.File
	layers []*stagedLayer
	also   func() error // what else becomes part of the store, before the index says so
	done   bool
	number atomic.Int64 // of files and folders that have no name of their own yet

	mu    sync.Mutex
	blobs []digest.Digest // staged as <dir>/<hex>
}

// stagedLayer is a layer that is whole, in the folder from; it belongs to to.
type stagedLayer struct {
	from string
	to   digest.Digest // the chain id
}

// begin makes a change. With a name, it waits until nobody else makes the change of this name.
func (s *Store) begin(ctx context.Context, name string) (*change, error) {
	if err := s.makeFolders(); err != nil {
		return nil, err
	}
	s.sweep()
	s.settle()
	for {
		dir := s.layers(staging + name)
		var err error
		if name == "" {
			dir, err = os.MkdirTemp(s.layers(), staging+"new-")
		} else if err = os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
			err = nil
		}
		if err != nil {
			return nil, storeError("stage a change of the image store", err)
		}
		lock, err := lockFolder(dir)
		if err == nil {
			c := &change{s: s, dir: dir, lock: lock}
			if err := emptyFolder(dir); err != nil { // what somebody of the same name has left
				return nil, errors.Join(storeError("remove the rest of a change", err), c.abort())
			}
			return c, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return nil, storeError("stage a change of the image store", err)
		}
		// Somebody else is at it, or has just removed the folder, which between mkdir and flock looks abandoned.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// lockFolder takes the lock of a staging folder, or says EWOULDBLOCK; ENOENT if the folder is gone meanwhile.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var st, now unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil {
		err = unix.Lstat(dir, &now)
	}
	if err == nil && (st.Ino != now.Ino || st.Dev != now.Dev) {
		err = unix.ENOENT
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweep removes what killed commands have left: staging folders that nobody has locked, and layers that were on their way
// out. That it cannot is no reason to refuse what was asked for; whoever may not write here sees that soon enough.
func (s *Store) sweep() {
	dir, err := os.Open(s.layers())
	if err != nil {
		return
	}
	names, _ := dir.Readdirnames(-1)
	dir.Close()
	for _, name := range names {
		path := s.layers(name)
		switch {
		case strings.HasPrefix(name, removing):
			removeTree(path)
		case strings.HasPrefix(name, staging):
			if lock, err := lockFolder(path); err == nil {
				removeTree(path)
				lock.Close()
			}
		}
	}
}

// abort throws the change away. It does nothing after a commit.
func (c *change) abort() error {
	if c.done {
		return nil
	}
	c.done = true
	return errors.Join(removeTree(c.dir), c.lock.Close())
}

// stageBlob puts a small blob into the change.
func (c *change) stageBlob(mediaType string, data []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := os.WriteFile(c.path(d.Digest), data, 0o600)
	if err == nil {
		c.stage("", d.Digest)
	}
	return d, storeError("write blob", err)
}

// stage notes a blob, which is whole, under its digest. path is where it is, if that is not its place in the change yet.
func (c *change) stage(path string, d digest.Digest) error {
	if path != "" {
		if err := os.Rename(path, c.path(d)); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.blobs, d) {
		c.blobs = append(c.blobs, d)
	}
	return nil
}

// staged says whether a blob is part of the change.
func (c *change) staged(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.blobs, d)
}

// commit makes the change part of the store. The blobs are on the disk before the first name leads to them: else a crash of
// the machine could leave names of nothing.
func (c *change) commit(update func(*ocispec.Index) error) (err error) {
	defer func() { err = errors.Join(err, c.abort()) }()
	if err := c.toDisk(); err != nil {
		return storeError("write layers to the disk", err)
	}
	return c.s.locked(unix.LOCK_EX, func() error {
		idx, err := c.s.loadIndex()
		if err == nil {
			err = update(idx)
		}
		if err == nil {
			err = c.move()
		}
		if err == nil && c.also != nil {
			err = c.also()
		}
		if err != nil {
			return err
		}
		return c.s.writeIndex(idx)
	})
}

// move puts what is staged in its place. No name leads to it yet.
func (c *change) move() error {
	for _, d := range c.blobs {
		if err := os.Rename(c.path(d), c.s.blobPath(d)); err != nil {
			return storeError("store blob", err)
		}
	}
	for _, l := range c.layers {
		if err := c.s.moveLayer(l); err != nil {
			return storeError("store layer", err)
		}
	}
	return storeError("write the image store to the disk", syncAll(c.s.images("blobs", "sha256"), c.s.layers()))
}

// path is where a blob is staged.
func (c *change) path(d digest.Digest) string { return filepath.Join(c.dir, d.Encoded()) }

// moveLayer puts a layer in its place. If it is there already, somebody else was faster; it is the same.
func (s *Store) moveLayer(l *stagedLayer) error {
	if _, err := s.layerInfo(l.to); err == nil {
		return nil
	}
	// What is there and not whole goes. Nobody uses it: it is from before the machine was booted.
	aside := s.layers(removing + l.to.Encoded())
	if err := os.Rename(s.layerPath(l.to), aside); errors.Is(err, unix.ENOTEMPTY) {
		err = removeTree(s.layerPath(l.to))
		if err != nil {
			return err
		}
	}
	if err := s.markUnsettled(l.to); err != nil {
		return err
	}
	err := os.Rename(l.from, s.layerPath(l.to))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil // it was unpacked for a container just now
	}
	return err
}

// emptyFolder removes what is in a folder.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
	}
	return err
}

// removeTree is os.RemoveAll for what somebody else has packed: without root's rights a folder that may not be written to
// keeps what is in it.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// addNames says in the index what an image is called from now on. Without names it stays as it was called, or without.
// Another image that had a name loses it, and stays without, if it had no other.
func addNames(idx *ocispec.Index, d ocispec.Descriptor, id, parent string, names []string, now time.Time) {
	entry := func(name string) ocispec.Descriptor {
		e := d
		e.Annotations = map[string]string{annotationID: id, annotationTagged: now.UTC().Format(time.RFC3339Nano)}
		if name != "" {
			e.Annotations[annotationName] = name
		}
		if parent != "" {
			e.Annotations[annotationParent] = parent
		}
		return e
	}
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		if name == "" && hasEntry(idx, d.Digest) {
			continue
		}
		dropName(idx, name)
		if name != "" {
			dropNameless(idx, d.Digest)
		}
		idx.Manifests = append(idx.Manifests, entry(name))
	}
}

func hasEntry(idx *ocispec.Index, d digest.Digest) bool {
	for _, e := range idx.Manifests {
		if e.Digest == d {
			return true
		}
	}
	return false
}

// dropName takes a name from the image that has it.
func dropName(idx *ocispec.Index, name string) {
	for i, e := range idx.Manifests {
		if name == "" || entryName(e) != name {
			continue
		}
		idx.Manifests = append(idx.Manifests[:i:i], idx.Manifests[i+1:]...)
		if !hasEntry(idx, e.Digest) {
			delete(e.Annotations, annotationName)
			delete(e.Annotations, annotationTagged)
			idx.Manifests = append(idx.Manifests, e)
		}
		return
	}
}

// dropNameless drops the entry that an image has only because it had no name.
func dropNameless(idx *ocispec.Index, d digest.Digest) {
	for i, e := range idx.Manifests {
		if e.Digest == d && entryName(e) == "" {
			idx.Manifests = append(idx.Manifests[:i:i], idx.Manifests[i+1:]...)
			return
		}
	}
}

// checkContainer accepts the ids and names that containers have.
func checkContainer(name string) error {
	ok := name != "" && len(name) <= 128 && name[0] != '.' &&
		all(name, func(c byte) bool { return isAlnum(c) || c == '_' || c == '.' || c == '-' })
	if !ok {
		return fmt.Errorf("%q is no container's id", name)
	}
	return nil
}
