package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// The build cache remembers which layer an instruction has made, by a key that stands for all that the instruction depends on:
//
//	images/.cache/<key>      a small file that says which layer
//
// The layer itself is one of the store, and may be an image's as well. A file here keeps it from being removed, but not the
// layers below it: without the base image it is of no use. The files are not relied on: one that cannot be read, or whose
// layer is not there, is as if there were none.

const cacheDir = ".cache"

// cacheRecord is such a file.
type cacheRecord struct {
	Chain   digest.Digest // of the layer and those below
	DiffID  digest.Digest
	Blob    ocispec.Descriptor
	Size    int64
	Created time.Time
	Image   *time.Time `json:",omitempty"` // of an image instead: the time that it bears
}

// Cached finds the layer that the cache knows by a key.
func (d *Draft) Cached(key string) (l *Layer, err error) {
	var rec cacheRecord
	err = d.s.locked(unix.LOCK_SH, func() error {
		var ok bool
		if rec, ok = d.s.cacheRecord(key); !ok || rec.Image != nil {
			return fs.ErrNotExist
		}
		_, err := d.s.layerInfo(rec.Chain)
		if err == nil {
			_, err = os.Lstat(d.s.blobPath(rec.Blob.Digest))
		}
		if err != nil {
			return fs.ErrNotExist
		}
		now := time.Now()
		os.Chtimes(d.s.images(cacheDir, key), now, now) // when it was last used
		return d.need(rec.Chain, rec.Blob.Digest)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Layer{
		Blob: rec.Blob, DiffID: rec.DiffID, Size: rec.Size, Created: rec.Created, chain: rec.Chain,
		dir: d.s.layerPath(rec.Chain, "diff"),
	}, nil
}

// cacheRecord reads one; what is not as it was written does not count.
func (s *Store) cacheRecord(key string) (rec cacheRecord, ok bool) {
	data, err := readSmall(s.images(cacheDir, key), maxManifest)
	if err != nil || !isHex(key, 64) || json.Unmarshal(data, &rec) != nil {
		return rec, false
	}
	return rec, rec.Image != nil || isDigest(rec.Chain) && isDigest(rec.DiffID) && isDigest(rec.Blob.Digest)
}

// ImageTime is the time that an image bears: the first time it was made, now, and that time whenever it is made again. key
// stands for all of it but the time.
func (d *Draft) ImageTime(key string, now time.Time) time.Time {
	if rec, ok := d.s.cacheRecord(key); ok && rec.Image != nil {
		return *rec.Image
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.times = append(d.times, imageTime{key, now})
	return now
}

type imageTime struct {
	key string
	at  time.Time
}

// writeRecords writes down what is new. The store is locked. They need not be on the disk when the machine crashes.
func (d *Draft) writeRecords() error {
	if len(d.records)+len(d.aliases)+len(d.times) == 0 {
		return nil
	}
	for _, a := range d.aliases { // of a layer that is not to be remembered, nothing is
		if a.layer.room == "" || slices.Contains(slices.Collect(maps.Values(d.records)), a.layer) {
			d.records[a.key] = a.layer
		}
	}
	if err := os.MkdirAll(d.s.images(cacheDir), 0o700); err != nil {
		return storeError("write the build cache", err)
	}
	write := func(key string, rec cacheRecord) error {
		text, err := json.Marshal(rec)
		if err == nil {
			aside := filepath.Join(d.c.dir, "record")
			if err = os.WriteFile(aside, text, 0o600); err == nil {
				err = os.Rename(aside, d.s.images(cacheDir, key))
			}
		}
		return storeError("write the build cache", err)
	}
	for key, l := range d.records {
		if err := write(key, cacheRecord{Chain: l.chain, DiffID: l.DiffID, Blob: l.Blob, Size: l.Size, Created: l.Created}); err != nil {
			return err
		}
	}
	for _, t := range d.times {
		if err := write(t.key, cacheRecord{Image: &t.at}); err != nil {
			return err
		}
	}
	return nil
}

// cacheRecords lists the cache. What cannot be read has no record.
func (s *Store) cacheRecords(visit func(key string, rec cacheRecord, ok bool) error) error {
	entries, err := os.ReadDir(s.images(cacheDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storeError("list the build cache", err)
	}
	for _, e := range entries {
		rec, ok := s.cacheRecord(e.Name())
		if err := visit(e.Name(), rec, ok); err != nil {
			return err
		}
	}
	return nil
}

// markCache notes what the cache needs.
func (s *Store) markCache(blobs, chains map[string]bool) error {
	return s.cacheRecords(func(_ string, rec cacheRecord, ok bool) error {
		if ok && rec.Image == nil {
			blobs[rec.Blob.Digest.Encoded()], chains[rec.Chain.Encoded()] = true, true
		}
		return nil
	})
}

// markDrafts notes what builds need that are going on.
func (s *Store) markDrafts(blobs, chains map[string]bool) error {
	lists, err := filepath.Glob(s.layers(staging + "*/" + needsFile))
	for _, name := range lists {
		data, readErr := readSmall(name, maxIndex)
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
			err = errors.Join(err, readErr)
		}
		for id := range strings.Lines(string(data)) {
			id = strings.TrimSpace(id)
			blobs[id], chains[id] = true, true
		}
	}
	return err
}

// CacheUsage is how much the build cache takes.
type CacheUsage struct {
	Records int
	Size    int64 // of the layers that no image has
	InUse   int   // records whose layer is an image's
}

// CacheUsage measures the build cache.
func (s *Store) CacheUsage() (u CacheUsage, err error) {
	idx, err := s.loadIndex()
	if err != nil {
		return u, err
	}
	blobs, chains := map[string]bool{}, map[string]bool{}
	for _, d := range idx.Manifests {
		if err := s.mark(d, blobs, chains); err != nil {
			return u, err
		}
	}
	seen := map[digest.Digest]bool{}
	err = s.cacheRecords(func(_ string, rec cacheRecord, ok bool) error {
		if !ok || rec.Image != nil {
			return nil
		}
		u.Records++
		switch {
		case chains[rec.Chain.Encoded()]:
			u.InUse++
		case !seen[rec.Chain]:
			u.Size += rec.Size
		}
		seen[rec.Chain] = true
		return nil
	})
	return u, err
}

// PruneCache forgets what the cache remembers, and removes the layers that nothing else needs. It returns the keys.
func (s *Store) PruneCache() (keys []string, freed int64, err error) {
	var done []Removed
	err = s.remove(nil, func(r *remover) error {
		return s.cacheRecords(func(key string, _ cacheRecord, _ bool) error {
			if err := os.Remove(s.images(cacheDir, key)); err != nil {
				return storeError(fmt.Sprintf("forget %s of the build cache", ShortID(key)), err)
			}
			keys = append(keys, key)
			return nil
		})
	}, &done, &freed)
	return keys, freed, err
}

// CacheFolder is where what RUN --mount=type=cache shows is kept: "data" in there, and "lock" beside it.
func (s *Store) CacheFolder(id string) string { return filepath.Join(s.root, "build", id) }
