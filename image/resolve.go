package image

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/jsonfile"
)

// Resolve finds an image by what people call it: a name, a name with a digest, an id, or the beginning of an id that no
// other has. A name wins over an id that begins like it.
func (s *Store) Resolve(ref string) (*Image, error) {
	idx, err := s.loadIndex()
	if err != nil {
		return nil, err
	}
	i, err := s.resolve(idx, ref)
	if errors.Is(err, ErrNotFound) && isDigest(digest.Digest(ref)) {
		// A whole id may be that of an image which was removed by force while a container has it.
		if users, _ := s.noted(ref); len(users) > 0 {
			return s.Held(ref, users[0])
		}
	}
	return i, err
}

func (s *Store) resolve(idx *ocispec.Index, ref string) (*Image, error) {
	found, err := s.find(idx, ref)
	if err != nil {
		return nil, err
	}
	i, err := s.load(idx, found)
	if errors.Is(err, fs.ErrNotExist) {
		// Removed since the index was read; or the store has lost it, and then it is not there, either.
		return nil, &NotFoundError{ref}
	}
	return i, err
}

// find finds the entry of the index.
func (s *Store) find(idx *ocispec.Index, ref string) (found ocispec.Descriptor, err error) {
	n, why := parseName(ref)
	if why == "" {
		if d, ok := findName(idx, n); ok {
			return d, nil
		}
	}
	prefix := strings.TrimPrefix(ref, "sha256:")
	if prefix == "" || len(prefix) > 64 || !isHex(prefix, len(prefix)) {
		if why != "" {
			return found, &ReferenceError{ref, why}
		}
		return found, &NotFoundError{ref}
	}
	ids := map[string]ocispec.Descriptor{}
	for _, d := range idx.Manifests {
		if d.Digest.Encoded() == prefix {
			return d, nil // of a manifest, in full
		}
		if id := s.id(d); strings.HasPrefix(strings.TrimPrefix(id, "sha256:"), prefix) {
			ids[id] = d
		}
	}
	if len(ids) > 1 {
		e := &AmbiguousError{Prefix: ref}
		for id := range ids {
			e.IDs = append(e.IDs, id)
		}
		slices.Sort(e.IDs)
		return found, e
	}
	for _, d := range ids {
		return d, nil
	}
	return found, &NotFoundError{ref}
}

func findName(idx *ocispec.Index, n Name) (ocispec.Descriptor, bool) {
	if n.Digest == "" && n.Tag == "" {
		n.Tag = defaultTag
	}
	if n.Digest != "" {
		n.Tag = "" // the digest says more
	}
	want := n.String()
	for _, d := range idx.Manifests {
		name := entryName(d)
		if name == want {
			return d, true
		}
		if n.Digest != "" && d.Digest == n.Digest && repositoryOf(name) == n.Repository() {
			return d, true
		}
	}
	return ocispec.Descriptor{}, false
}

// repositoryOf is the part of a stored name before the tag or digest.
func repositoryOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// id is the image id of an entry: noted in it, or else found in the manifest. It is empty if there is no such manifest.
func (s *Store) id(d ocispec.Descriptor) string {
	if id := d.Annotations[annotationID]; isDigest(digest.Digest(id)) {
		return id
	}
	m, _, err := s.loadManifest(d)
	if err != nil {
		return ""
	}
	return string(m.Config.Digest)
}

const (
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
)

// loadManifest reads the manifest of an entry. Where other tools have stored an image for several platforms, it is that of
// this one.
func (s *Store) loadManifest(d ocispec.Descriptor) (m ocispec.Manifest, at ocispec.Descriptor, err error) {
	if d.MediaType == ocispec.MediaTypeImageIndex || d.MediaType == dockerManifestList {
		data, err := s.blob(d.Digest, maxManifest)
		if err != nil {
			return m, at, err
		}
		var list ocispec.Index
		if err := jsonfile.Unmarshal(data, &list); err != nil {
			return m, at, fmt.Errorf("read index %s: %w", d.Digest, err)
		}
		i := slices.IndexFunc(list.Manifests, func(d ocispec.Descriptor) bool {
			return d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH
		})
		if i < 0 {
			return m, at, fmt.Errorf("image %s is not for linux/%s: %w", d.Digest, runtime.GOARCH, fs.ErrNotExist)
		}
		d = list.Manifests[i]
	}
	data, err := s.blob(d.Digest, maxManifest)
	if err != nil {
		return m, at, err
	}
	if err := jsonfile.Unmarshal(data, &m); err != nil {
		return m, at, fmt.Errorf("read manifest %s: %w", d.Digest, err)
	}
	if !isDigest(m.Config.Digest) {
		return m, at, fmt.Errorf("manifest %s: config %q: %w", d.Digest, m.Config.Digest, ErrCorrupt)
	}
	d.Size = int64(len(data))
	return m, d, nil
}

// load reads the image of an entry, with all names that the index has for it.
func (s *Store) load(idx *ocispec.Index, d ocispec.Descriptor) (*Image, error) {
	m, at, err := s.loadManifest(d)
	if err != nil {
		return nil, err
	}
	i := &Image{ID: string(m.Config.Digest), Digest: string(at.Digest), manifest: m, manifestSize: at.Size}
	config, err := s.blob(m.Config.Digest, maxConfig)
	if err != nil {
		return nil, err
	}
	if err := i.parseConfig(config); err != nil {
		return nil, fmt.Errorf("image %s: %w", ShortID(i.ID), err)
	}
	for _, e := range idx.Manifests {
		if e.Digest != d.Digest && s.id(e) != i.ID {
			continue
		}
		if name := entryName(e); byDigest(name) {
			i.Digests = append(i.Digests, name)
		} else if name != "" {
			i.Names = append(i.Names, name)
		}
		if p := e.Annotations[annotationParent]; p != "" {
			i.Parent = p
		}
		if at, err := time.Parse(time.RFC3339Nano, e.Annotations[annotationTagged]); err == nil && at.After(i.Tagged) {
			i.Tagged = at
		}
	}
	slices.Sort(i.Names)
	slices.Sort(i.Digests)
	return i, nil
}

// List returns all images, the newest first, with their sizes. What cannot be read is an error beside those that can.
func (s *Store) List() ([]*Image, error) {
	s.sweep()
	idx, err := s.loadIndex()
	if err != nil {
		return nil, err
	}
	var list []*Image
	var errs []error
	seen := map[string]bool{}
	for _, d := range idx.Manifests {
		id := s.id(d)
		if id != "" && seen[id] {
			continue
		}
		i, err := s.load(idx, d)
		if err == nil {
			err = s.Measure(i)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read image %s: %w", strings.TrimSpace(entryName(d)+" "+ShortID(string(d.Digest))), err))
			continue
		}
		seen[i.ID] = true
		list = append(list, i)
	}
	slices.SortStableFunc(list, func(a, b *Image) int {
		if c := created(b).Compare(created(a)); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, errors.Join(errs...)
}

func created(i *Image) time.Time {
	if i.Config.Created == nil {
		return time.Time{}
	}
	return *i.Config.Created
}
