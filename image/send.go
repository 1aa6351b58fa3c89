package image

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What whoever sends an image elsewhere needs of it.

// Manifest is an image's manifest, as it is stored.
func (s *Store) Manifest(i *Image) ([]byte, error) {
	data, err := s.blob(digest.Digest(i.Digest), maxManifest)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return data, nil
}

// ConfigDescriptor is that of an image's config.
func (s *Store) ConfigDescriptor(i *Image) ocispec.Descriptor { return i.manifest.Config }

// OpenBlob opens a blob for reading. That it is what its digest says, whoever gets it will find out.
func (s *Store) OpenBlob(d ocispec.Descriptor) (*os.File, error) {
	if !isDigest(d.Digest) {
		return nil, fmt.Errorf("digest %q: %w", d.Digest, ErrCorrupt)
	}
	f, err := os.Open(s.blobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != d.Size {
		err = fmt.Errorf("blob %s has %d bytes and not %d: %w", ShortID(string(d.Digest)), st.Size(), d.Size, ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Origins tells which repositories of a registry are known to have a layer: those that an image came from, or went to.
func (s *Store) Origins(domain string) (map[digest.Digest][]string, error) {
	idx, err := s.loadIndex()
	if err != nil {
		return nil, err
	}
	all := map[digest.Digest][]string{}
	for _, e := range idx.Manifests {
		n, why := parseName(entryName(e))
		if why != "" || n.Digest == "" || n.Domain != domain {
			continue
		}
		m, _, err := s.loadManifest(e)
		if err != nil {
			continue // of this image nothing can be said
		}
		for _, l := range m.Layers {
			if !slices.Contains(all[l.Digest], n.Path) {
				all[l.Digest] = append(all[l.Digest], n.Path)
			}
		}
	}
	return all, nil
}

// NoteDigest notes a name by digest under which an image can be had elsewhere.
func (s *Store) NoteDigest(i *Image, name string) error {
	return s.change(func(idx *ocispec.Index) error {
		n := slices.IndexFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return s.id(d) == i.ID })
		if n < 0 {
			return &NotFoundError{i.ID}
		}
		if slices.ContainsFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return entryName(d) == name && s.id(d) == i.ID }) {
			return nil
		}
		addNames(idx, i.Descriptor(), i.ID, i.Parent, []string{name}, time.Now())
		return nil
	})
}
