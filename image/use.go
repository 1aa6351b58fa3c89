package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// A container needs its image's layers for as long as it exists, also if the image is removed by force. So each container
// is noted with its image, by one more name of a small file that says which manifest it is:
//
//	images/.users/<id>/.manifest       "sha256:…"
//	images/.users/<id>/<container>     a hard link of it: no new inode, and one system call to make and to remove
//
// It is no state to be relied on, since the machine can crash between making a container and noting it; who removes images
// asks the containers.

const manifestNote = ".manifest"

// Use notes that a container needs an image, before it looks for the image's layers. It does no harm twice.
func (s *Store) Use(imageID, container string) error {
	fail := func(err error) error { return fmt.Errorf("use image %s: %w", ShortID(imageID), err) }
	if err := checkContainer(container); err != nil {
		return fail(err)
	}
	// Others may do the same at the same time, but nobody removes the image between the look and the note.
	return s.locked(unix.LOCK_SH, func() error {
		idx, err := s.loadIndex()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return s.id(d) == imageID })
		if i < 0 {
			if _, err := s.Held(imageID, container); err == nil {
				return nil
			}
			return &NotFoundError{imageID}
		}
		dir := s.images(usersDir, digest.Digest(imageID).Encoded())
		link := func() error { return os.Link(filepath.Join(dir, manifestNote), filepath.Join(dir, container)) }
		err = link()
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(dir, 0o700); err == nil {
				err = writeNote(filepath.Join(dir, manifestNote), idx.Manifests[i].Digest)
			}
			if err == nil {
				err = link()
			}
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fail(err)
		}
		return nil
	})
}

// writeNote writes a note that others may be writing, too. It is not synced: nobody waits for a disk to start a container.
func writeNote(path string, d digest.Digest) error {
	f, err := os.CreateTemp(filepath.Dir(path), manifestNote+"-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(string(d))
	return errors.Join(err, f.Close(), os.Rename(f.Name(), path))
}

// Release undoes [Store.Use]. It does no harm twice.
func (s *Store) Release(imageID, container string) error {
	if err := checkContainer(container); err != nil || !isDigest(digest.Digest(imageID)) {
		return err
	}
	note := s.images(usersDir, digest.Digest(imageID).Encoded(), container)
	if err := os.Remove(note); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release image %s: %w", ShortID(imageID), err)
	}
	return nil
}

// ReleaseAll takes all notes of a container away: of one of which nothing more is known than its id.
func (s *Store) ReleaseAll(container string) error {
	if err := checkContainer(container); err != nil {
		return err
	}
	notes, err := filepath.Glob(s.images(usersDir, "*", container))
	for _, note := range notes {
		err = errors.Join(err, s.Release("sha256:"+filepath.Base(filepath.Dir(note)), container))
	}
	return err
}

// Held returns the image that a container uses, also if it was removed by force since.
func (s *Store) Held(imageID, container string) (*Image, error) {
	if err := checkContainer(container); err != nil {
		return nil, err
	}
	if !isDigest(digest.Digest(imageID)) {
		return nil, &NotFoundError{imageID}
	}
	idx, err := s.loadIndex()
	if err != nil {
		return nil, err
	}
	target, err := readSmall(s.images(usersDir, digest.Digest(imageID).Encoded(), container), 1024)
	if errors.Is(err, fs.ErrNotExist) { // a note that the machine has lost in a crash; the image is there, most likely
		return s.resolve(idx, imageID)
	}
	if err != nil {
		return nil, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(target)}
	for _, e := range idx.Manifests { // it may be of another type: an index, of several platforms
		if e.Digest == d.Digest {
			d = e
		}
	}
	return s.load(idx, d)
}

// noted lists the containers that are noted with an image.
func (s *Store) noted(imageID string) ([]string, error) {
	entries, err := os.ReadDir(s.images(usersDir, digest.Digest(imageID).Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.Name()[0] != '.' {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// notes lists all manifests that containers need. What has no container any more is removed.
func (s *Store) notes() (manifests []ocispec.Descriptor, err error) {
	dirs, err := os.ReadDir(s.images(usersDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, d := range dirs {
		users, readErr := s.noted("sha256:" + d.Name())
		if readErr == nil && len(users) == 0 {
			os.RemoveAll(s.images(usersDir, d.Name()))
			continue
		}
		target, noteErr := readSmall(s.images(usersDir, d.Name(), manifestNote), 1024)
		if err = errors.Join(err, readErr, noteErr); isDigest(digest.Digest(target)) {
			manifests = append(manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(target)})
		}
	}
	return manifests, err
}
