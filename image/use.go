package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// A container needs its image's layers for as long as it exists, also if the image is removed by force. So each container
// is noted with its image, as a small file that names the manifest: images/.users/<id>/<container>. It is no state to be
// relied on, since the machine can crash between making a container and noting it; who removes images asks the containers.

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
		note := s.images(usersDir, digest.Digest(imageID).Encoded(), container)
		text := []byte(idx.Manifests[i].Digest)
		err = os.WriteFile(note, text, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(note), 0o700); err == nil {
				err = os.WriteFile(note, text, 0o600)
			}
		}
		if err != nil {
			return fail(err)
		}
		return nil
	})
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
	os.Remove(filepath.Dir(note)) // stays while others are in it
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
	text, err := readSmall(s.images(usersDir, digest.Digest(imageID).Encoded(), container), 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{imageID}
	}
	if err != nil {
		return nil, err
	}
	idx, err := s.loadIndex()
	if err != nil {
		return nil, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(strings.TrimSpace(string(text)))}
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
		names = append(names, e.Name())
	}
	return names, err
}

// notes lists all manifests that containers need.
func (s *Store) notes() (manifests []ocispec.Descriptor, err error) {
	files, err := filepath.Glob(s.images(usersDir, "*", "*"))
	for _, name := range files {
		text, readErr := readSmall(name, 1024)
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
			err = errors.Join(err, readErr)
		}
		if d := digest.Digest(strings.TrimSpace(string(text))); isDigest(d) {
			manifests = append(manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d})
		}
	}
	return manifests, err
}
