package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
)

// Store is a folder with images.
type Store struct{ root string }

const (
	indexFile = "index.json"
	lockFile  = ".lock"
	usersDir  = ".users" // images/.users/<id>/<container>: the containers that need an image
	staging   = ".staging-"
	removing  = ".removing-"
)

// Our annotations in index.json. What they say stands in the blobs, too, but for the parent and the time.
const (
	annotationName   = ocispec.AnnotationRefName
	annotationID     = "io.nslab.image.id"
	annotationParent = "io.nslab.image.parent"
	annotationTagged = "io.nslab.image.tagged"
)

// The most that is read of the small files of a store, which other tools may have written.
const (
	maxIndex    = 64 << 20
	maxManifest = 4 << 20 // as registries have it
	maxConfig   = 8 << 20
)

// Open names a store; its folders are made when something is first put into them.
func Open(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return &Store{root}, nil
}

func (s *Store) images(parts ...string) string {
	return filepath.Join(append([]string{s.root, "images"}, parts...)...)
}

func (s *Store) layers(parts ...string) string {
	return filepath.Join(append([]string{s.root, "layers"}, parts...)...)
}

func (s *Store) blobPath(d digest.Digest) string { return s.images("blobs", "sha256", d.Encoded()) }

func (s *Store) layerPath(chain digest.Digest, parts ...string) string {
	return s.layers(append([]string{chain.Encoded()}, parts...)...)
}

// makeFolders makes the store's folders. They are the owner's alone: an old set-uid program in some image must not be in
// reach of the host's users (CVE-2021-41091).
func (s *Store) makeFolders() error {
	if err := os.MkdirAll(s.root, 0o711); err != nil { // volumes are reached through it by containers' users
		return storeError("make the image store", err)
	}
	for _, dir := range []string{s.layers(), s.images("blobs", "sha256"), s.images(usersDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return storeError("make the image store", err)
		}
	}
	return nil
}

// storeError says what was being done to the store, with the path that was refused.
func storeError(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// locked runs f while nobody else changes the store, or with unix.LOCK_SH, while somebody else may use it, too.
func (s *Store) locked(how int, f func() error) (err error) {
	lock, err := os.OpenFile(s.images(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeFolders(); err == nil {
			lock, err = os.OpenFile(s.images(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
		}
	}
	if errors.Is(err, unix.EROFS) && how == unix.LOCK_SH {
		if lock, err = os.Open(s.images(lockFile)); errors.Is(err, fs.ErrNotExist) {
			return f() // nobody can change anything
		}
	}
	if err != nil {
		return storeError("lock the image store", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(lock.Fd()), how)
	}
	if err != nil {
		return storeError("lock the image store", err)
	}
	return f()
}

// replaceFile writes a file aside, syncs it and renames it, so that there is always a whole one.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// readSmall reads a file up to a limit. A start of a container reads a handful, so they are read by the bare calls:
// os.Open would also offer each to epoll.
func readSmall(path string, limit int64) ([]byte, error) {
	fail := func(op string, err error) ([]byte, error) { return nil, &fs.PathError{Op: op, Path: path, Err: err} }
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail("stat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > limit {
		return fail("read", unix.EFBIG)
	}
	data := make([]byte, st.Size)
	for n := 0; n < len(data); {
		m, err := unix.Pread(fd, data[n:], int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fail("read", err)
		case m == 0:
			return data[:n], nil
		}
		n += max(m, 0)
	}
	return data, nil
}

// loadIndex reads index.json; a store that nothing was put into yet has an empty one.
func (s *Store) loadIndex() (*ocispec.Index, error) {
	idx := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	data, err := readSmall(s.images(indexFile), maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return idx, nil
	}
	if err == nil {
		err = jsonfile.Unmarshal(data, idx)
	}
	if err != nil {
		return nil, storeError("read the index of the image store", err)
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return !isDigest(d.Digest) })
	return idx, nil
}

// changeIndex lets f change index.json, under the store's lock, which the caller has.
func (s *Store) changeIndex(f func(*ocispec.Index) error) error {
	idx, err := s.loadIndex()
	if err == nil {
		err = f(idx)
	}
	if err != nil {
		return err
	}
	return s.writeIndex(idx)
}

// writeIndex replaces index.json.
func (s *Store) writeIndex(idx *ocispec.Index) (err error) {
	defer func() { err = storeError("write the index of the image store", err) }()
	left, _ := filepath.Glob(s.images(".*-*")) // of one who was killed while he wrote it
	for _, name := range left {
		os.Remove(name)
	}
	if _, missing := os.Lstat(s.images(ocispec.ImageLayoutFile)); errors.Is(missing, fs.ErrNotExist) {
		layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err := errors.Join(err, replaceFile(s.images(ocispec.ImageLayoutFile), layout)); err != nil {
			return err
		}
	}
	if idx.Manifests == nil {
		idx.Manifests = []ocispec.Descriptor{}
	}
	text, err := json.MarshalIndent(idx, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(s.images(indexFile), append(text, '\n'))
}

// change changes index.json alone.
func (s *Store) change(f func(*ocispec.Index) error) error {
	return s.locked(unix.LOCK_EX, func() error { return s.changeIndex(f) })
}

// blob reads a small blob and checks that it is what its digest says.
func (s *Store) blob(d digest.Digest, limit int64) ([]byte, error) {
	if !isDigest(d) {
		return nil, fmt.Errorf("digest %q: %w", d, ErrCorrupt)
	}
	data, err := readSmall(s.blobPath(d), limit)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(data) != d {
		return nil, fmt.Errorf("blob %s: %w", d, ErrCorrupt)
	}
	return data, nil
}

// entryName is what an entry of the index calls its image: by name, by digest, or neither.
func entryName(d ocispec.Descriptor) string { return d.Annotations[annotationName] }

func byDigest(name string) bool { return strings.Contains(name, "@") }
