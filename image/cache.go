package image

import (
	"encoding/json"
	"errors"
	"io/fs"
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
	Key     string     `json:",omitempty"` // instead: the key under which the layer is known
}

// Cached finds the layer that the cache knows by a key. known is the key again or, of an alias, the one that it stands for.
func (d *Draft) Cached(key string) (l *Layer, known string, err error) {
	var rec cacheRecord
	err = d.s.locked(unix.LOCK_SH, func() error {
		var ok bool
		if rec, ok = d.s.cacheRecord(key); ok && rec.Key != "" {
			key = rec.Key
			rec, ok = d.s.cacheRecord(key)
		}
		if !ok || !rec.ofLayer() {
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
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	return &Layer{
		Blob: rec.Blob, DiffID: rec.DiffID, Size: rec.Size, Created: rec.Created, chain: rec.Chain,
		dir: d.s.layerPath(rec.Chain, "diff"),
	}, key, nil
}

// ofLayer says whether a record is of a layer.
func (r *cacheRecord) ofLayer() bool {
	return isDigest(r.Chain) && isDigest(r.DiffID) && isDigest(r.Blob.Digest)
}

// Alias lets the cache know a layer by one more key.
func (d *Draft) Alias(alias, key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aliases[alias] = key
}

// cacheRecord reads one; what is not as it was written does not count.
func (s *Store) cacheRecord(key string) (rec cacheRecord, ok bool) {
	data, err := readSmall(s.images(cacheDir, key), maxManifest)
	if err != nil || !isHex(key, 64) || json.Unmarshal(data, &rec) != nil {
		return rec, false
	}
	return rec, rec.Image != nil || isHex(rec.Key, 64) || rec.ofLayer()
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
	for alias, key := range d.aliases {
		if err := write(alias, cacheRecord{Key: key}); err != nil {
			return err
		}
	}
	for _, t := range d.times {
		if err := write(t.key, cacheRecord{Image: &t.at}); err != nil {
			return err
		}
	}
	return d.s.trimCache()
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
		if ok && rec.ofLayer() {
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

// CacheEntry is something that the build cache keeps.
type CacheEntry struct {
	ID            string
	Kind          string // "regular", a layer; or "exec.cachemount", a folder of RUN --mount=type=cache
	Size          int64
	Created, Used time.Time
	Shared        bool // the layer is an image's, too
	Busy          bool // a build has the folder
}

const (
	kindLayer  = "regular"
	kindFolder = "exec.cachemount"
)

// CacheEntries lists the build cache. A layer that is known by several keys is listed once.
func (s *Store) CacheEntries() (list []CacheEntry, err error) {
	idx, err := s.loadIndex()
	if err != nil {
		return nil, err
	}
	blobs, chains := map[string]bool{}, map[string]bool{}
	for _, d := range idx.Manifests {
		if err := s.mark(d, blobs, chains); err != nil {
			return nil, err
		}
	}
	seen := map[digest.Digest]bool{}
	err = s.cacheRecords(func(key string, rec cacheRecord, ok bool) error {
		if !ok || !rec.ofLayer() || seen[rec.Chain] {
			return nil
		}
		seen[rec.Chain] = true
		e := CacheEntry{ID: key, Kind: kindLayer, Size: rec.Size, Created: rec.Created, Shared: chains[rec.Chain.Encoded()]}
		if st, err := os.Lstat(s.images(cacheDir, key)); err == nil {
			e.Used = st.ModTime()
		}
		list = append(list, e)
		return nil
	})
	folders, foldersErr := s.cacheFolders()
	return append(list, folders...), errors.Join(err, foldersErr)
}

// CacheFolder is where what RUN --mount=type=cache shows is kept: "data" in there, and "lock" beside it, which every build that
// has the folder holds.
func (s *Store) CacheFolder(id string) string { return filepath.Join(s.root, "build", id) }

func (s *Store) cacheFolders() (list []CacheEntry, err error) {
	dirs, err := os.ReadDir(filepath.Join(s.root, "build"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, d := range dirs {
		e := CacheEntry{ID: d.Name(), Kind: kindFolder}
		filepath.WalkDir(s.CacheFolder(e.ID), func(_ string, d fs.DirEntry, err error) error {
			if st, infoErr := d.Info(); err == nil && infoErr == nil && st.Mode().IsRegular() {
				e.Size += st.Size()
			}
			return nil
		})
		if st, err := os.Lstat(filepath.Join(s.CacheFolder(e.ID), "lock")); err == nil {
			e.Created, e.Used = st.ModTime(), st.ModTime()
		}
		if lock, err := takeLock(filepath.Join(s.CacheFolder(e.ID), "lock"), unix.LOCK_EX); err == nil {
			lock.Close()
		} else {
			e.Busy = errors.Is(err, unix.EWOULDBLOCK)
		}
		list = append(list, e)
	}
	return list, err
}

// takeLock takes the lock of a file that is there, if it is free.
func takeLock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// PruneCache forgets what match says of the build cache, or all of it, and removes the layers that nothing else needs. It
// returns the ids.
func (s *Store) PruneCache(match func(CacheEntry) bool) (ids []string, freed int64, err error) {
	entries, err := s.CacheEntries()
	if err != nil {
		return nil, 0, err
	}
	chosen := map[digest.Digest]bool{}
	for _, e := range entries {
		if match != nil && !match(e) || e.Busy {
			continue
		}
		if e.Kind == kindLayer {
			if rec, ok := s.cacheRecord(e.ID); ok {
				chosen[rec.Chain] = true
			}
		} else if gone, removeErr := s.removeCacheFolder(e.ID); removeErr != nil {
			err = errors.Join(err, removeErr)
			continue
		} else if !gone {
			continue
		} else {
			freed += e.Size
		}
		ids = append(ids, e.ID)
	}
	var done []Removed
	return ids, freed, errors.Join(err, s.remove(nil, func(*remover) error {
		return s.cacheRecords(func(key string, rec cacheRecord, ok bool) error {
			target, aliased := s.cacheRecord(rec.Key)
			gone := !ok || rec.ofLayer() && chosen[rec.Chain] || rec.Key != "" && (!aliased || chosen[target.Chain]) || match == nil
			if !gone {
				return nil
			}
			return storeError("forget "+ShortID(key)+" of the build cache", os.Remove(s.images(cacheDir, key)))
		})
	}, &done, &freed))
}

// removeCacheFolder removes a folder that no build has.
func (s *Store) removeCacheFolder(id string) (gone bool, err error) {
	lock, err := takeLock(filepath.Join(s.CacheFolder(id), "lock"), unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, storeError("remove a folder of the build cache", err)
	}
	if lock != nil {
		defer lock.Close()
	}
	return true, storeError("remove a folder of the build cache", removeTree(s.CacheFolder(id)))
}

// maxRecords bounds the cache. Of more than these, those go that have not been used for the longest time.
const maxRecords = 10_000

func (s *Store) trimCache() error {
	entries, err := os.ReadDir(s.images(cacheDir))
	if err != nil || len(entries) <= maxRecords {
		return storeError("list the build cache", err)
	}
	used := map[string]time.Time{}
	for _, e := range entries {
		if st, err := e.Info(); err == nil {
			used[e.Name()] = st.ModTime()
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return used[a.Name()].Compare(used[b.Name()]) })
	for _, e := range entries[:len(entries)-maxRecords/2] {
		if err := os.Remove(s.images(cacheDir, e.Name())); err != nil {
			return storeError("trim the build cache", err)
		}
	}
	return nil
}
