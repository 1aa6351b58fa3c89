package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// Draft is what a build puts into the store: layers, several images perhaps, and what the cache remembers of them. It becomes
// part of the store at once, when it is saved; until then it lies in a staging folder, and a killed build leaves nothing else.
//
// A layer is not unpacked from an archive here: the folder that a container has written to is the unpacked layer, and gets its
// place in the store by a rename. The archive is made of it, once.
type Draft struct {
	s   *Store
	c   *change
	ctx context.Context // packing goes on when the stage is long done that has made a layer

	mu      sync.Mutex
	rooms   int
	records map[string]*Layer // new in the cache
	aliases map[string]string // likewise: key to key
	times   []imageTime       // likewise new
	packing sync.WaitGroup
	slots   chan struct{}
}

// Layer is a layer that an image is made of.
type Layer struct {
	Blob    ocispec.Descriptor
	DiffID  digest.Digest
	Size    int64 // of its files
	Created time.Time

	chain digest.Digest
	dir   string // its files, as overlay wants them
	room  string // the staging folder that it lies in, if it is new
	info  layerInfo
	done  chan struct{} // closed when it has been packed
	err   error
}

// Dir is the folder to mount.
func (l *Layer) Dir() string { return l.dir }

// Wait returns when the layer's digests are known.
func (l *Layer) Wait() error {
	if l.done != nil {
		<-l.done
	}
	return l.err
}

// Chain is the chain id of the layer with those below it.
func (l *Layer) Chain() digest.Digest { return l.chain }

// Draft begins one. The caller closes it.
func (s *Store) Draft(ctx context.Context) (*Draft, error) {
	c, err := s.begin(ctx, "")
	if err != nil {
		return nil, err
	}
	return &Draft{s: s, c: c, ctx: ctx, records: map[string]*Layer{}, aliases: map[string]string{}, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}, nil
}

// Close throws away what was not saved.
func (d *Draft) Close() error {
	d.packing.Wait()
	return d.c.abort()
}

// Dir is a folder of the draft's own for whatever is to be gone with it.
func (d *Draft) Dir() string { return d.c.dir }

// needsFile lists, in a staging folder, what must not be removed as long as somebody works there.
const needsFile = "needs"

// need notes blobs and chain ids. The caller has the store's lock, shared.
func (d *Draft) need(ids ...digest.Digest) error {
	f, err := os.OpenFile(filepath.Join(d.c.dir, needsFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return storeError("note what the build needs", err)
	}
	var text []byte
	for _, id := range ids {
		text = append(append(text, id.Encoded()...), '\n')
	}
	_, err = f.Write(text)
	return storeError("note what the build needs", errors.Join(err, f.Close()))
}

// Base finds an image and keeps it from being removed while the draft is open. Its layers are unpacked where they are not. dirs
// are the folders to mount, the topmost first.
func (d *Draft) Base(ctx context.Context, ref string) (i *Image, layers []*Layer, dirs []string, err error) {
	err = d.s.locked(unix.LOCK_SH, func() (err error) {
		if i, err = d.s.Resolve(ref); err != nil {
			return err
		}
		ids := append(i.Chain(), i.manifest.Config.Digest, digest.Digest(i.Digest))
		for _, l := range i.manifest.Layers {
			ids = append(ids, l.Digest)
		}
		return d.need(ids...)
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if dirs, err = d.s.Layers(ctx, i, unionfs.Overlay); err != nil {
		return nil, nil, nil, err
	}
	for n, chain := range i.Chain() {
		layers = append(layers, &Layer{
			Blob: i.manifest.Layers[n], DiffID: i.Config.RootFS.DiffIDs[n], chain: chain, dir: d.s.layerPath(chain, "diff"),
		})
	}
	return i, layers, dirs, nil
}

// Room makes a folder for a new layer, with "diff" for its files and "work" for overlay. like is a folder whose owner and mode
// the layer's root is to have, empty for root's.
func (d *Draft) Room(like string) (room string, err error) {
	d.mu.Lock()
	d.rooms++
	room = filepath.Join(d.c.dir, fmt.Sprintf("layer-%d", d.rooms))
	d.mu.Unlock()
	diff := filepath.Join(room, "diff")
	err = errors.Join(os.Mkdir(room, 0o700), os.Mkdir(diff, 0o755), os.Mkdir(filepath.Join(room, "work"), 0o700))
	if err == nil {
		err = os.Chmod(diff, 0o755) // whatever the umask is
	}
	var st unix.Stat_t
	if err == nil && like != "" && unix.Lstat(like, &st) == nil {
		err = os.Chmod(diff, fs.FileMode(st.Mode&0o777))
		if err == nil && os.Geteuid() == 0 {
			err = os.Lchown(diff, int(st.Uid), int(st.Gid))
		}
	}
	return room, storeError("make a layer", err)
}

// Keep takes the files in a room as a layer on top of those below it. It is packed meanwhile: see [Layer.Wait]. Nobody may
// write to the room any more. Times later than latest, if that is not nil, become latest: so the same input gives the same
// layer. key is what the cache is to know it by; empty for what is not to be known.
func (d *Draft) Keep(room string, below *Layer, key string, created time.Time, latest *time.Time) *Layer {
	l := &Layer{room: room, dir: filepath.Join(room, "diff"), Created: created, done: make(chan struct{})}
	d.packing.Add(1)
	go func() {
		defer d.packing.Done()
		defer close(l.done)
		d.slots <- struct{}{}
		defer func() { <-d.slots }()
		if l.err = d.pack(d.ctx, l, below == nil, latest); l.err != nil {
			return
		}
		if l.chain = l.DiffID; below != nil {
			if l.err = below.Wait(); l.err != nil {
				return
			}
			l.chain = chain([]digest.Digest{below.chain, l.DiffID})[1]
		}
		if key != "" {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.records[key] = l
		}
	}()
	return l
}

// pack writes the layer's blob, and what is known about the layer.
func (d *Draft) pack(ctx context.Context, l *Layer, lowest bool, latest *time.Time) (err error) {
	defer func() { err = storeError("store layer", err) }()
	// Overlay is done with its work folder, where only root may remove what it has left.
	if err := removeTree(filepath.Join(l.room, "work")); err != nil {
		return err
	}
	form, err := unionfs.FormFor(d.c.dir)
	if err != nil {
		return err
	}
	l.info = layerInfo{Form: form, Boot: bootID()} // the files need not be on the disk: see settle.go
	if err := l.measure(latest); err != nil {
		return err
	}
	blob, err := newBlobWriter(filepath.Join(l.room, "blob"), 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	r, w := io.Pipe()
	go func() { w.CloseWithError(unionfs.WriteTar(ctx, w, l.dir, form)) }()
	p := newPipe(ctx, r, blob, maxLayer)
	_, err = io.Copy(io.Discard, p)
	r.CloseWithError(context.Canceled) // where storing fails first, the writer must not wait for ever
	if err != nil {
		return err
	}
	if err := blob.finish(); err != nil {
		return err
	}
	l.Blob = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: p.digest(), Size: p.size}
	l.DiffID, l.Size = l.Blob.Digest, l.info.Size
	l.info.DiffID = l.DiffID
	if lowest {
		l.info.Form = noMarks
	}
	text, err := json.Marshal(l.info)
	if err == nil {
		err = os.WriteFile(filepath.Join(l.room, layerFile), text, 0o600)
	}
	if err == nil { // two layers may be the same, and then so are the blobs
		err = os.Rename(filepath.Join(l.room, "blob"), filepath.Join(d.c.dir, l.Blob.Digest.Encoded()))
	}
	return err
}

// measure counts what is in the layer, takes sockets out, which no archive has, and sets the times.
func (l *Layer) measure(latest *time.Time) error {
	seen := map[[2]uint64]bool{}
	err := unionfs.Walk(l.dir, l.info.Form, func(name string, m *unionfs.Mark, st *unix.Stat_t) error {
		if m != nil {
			l.info.Marks++
			if !m.Opaque {
				return nil
			}
		}
		path := filepath.Join(l.dir, name)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			return os.Remove(path)
		case unix.S_IFREG:
			if file := [2]uint64{uint64(st.Dev), st.Ino}; st.Nlink == 1 || !seen[file] {
				seen[file] = true
				l.info.Size += st.Size
			}
		}
		if name != "." {
			l.info.Entries++
		}
		if latest == nil || st.Mtim.Sec < latest.Unix() || st.Mtim.Sec == latest.Unix() && st.Mtim.Nsec == 0 {
			return nil
		}
		t := unix.NsecToTimespec(latest.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return fmt.Errorf("look at the layer's files: %w", err)
	}
	return nil
}

// Finished is an image that a draft makes.
type Finished struct {
	Names  []string
	Config ocispec.Image // its RootFS is filled in
	Extra  Extra
	Layers []*Layer // the lowest first
}

// Save makes the draft part of the store: the image, if it is not nil, and all layers that the cache is to know. There may
// only be one Save.
func (d *Draft) Save(o *Finished) (i *Image, err error) {
	d.packing.Wait()
	if o == nil {
		if len(d.records) == 0 {
			return nil, d.c.abort()
		}
		return nil, d.commit(nil, func(*ocispec.Index) error { return nil })
	}
	names, err := tagNames(o.Names)
	if err != nil {
		return nil, err
	}
	i = &Image{Names: names, Config: o.Config, Extra: o.Extra, Tagged: time.Now()}
	i.Config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range o.Layers {
		if err := l.Wait(); err != nil {
			return nil, err
		}
		i.manifest.Layers = append(i.manifest.Layers, l.Blob)
		i.Config.RootFS.DiffIDs = append(i.Config.RootFS.DiffIDs, l.DiffID)
	}
	desc, err := d.c.addManifest(i)
	if err != nil {
		return nil, err
	}
	if done, err := d.known(i, desc, names); done || err != nil {
		return i, errors.Join(err, d.c.abort())
	}
	err = d.commit(o.Layers, func(idx *ocispec.Index) error {
		for _, l := range o.Layers {
			if l.room != "" {
				continue
			}
			if _, err := os.Lstat(d.s.blobPath(l.Blob.Digest)); err != nil {
				return fmt.Errorf("layer %s: %w", ShortID(string(l.Blob.Digest)), err)
			}
		}
		addNames(idx, desc, i.ID, "", names, i.Tagged)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return i, d.s.Measure(i)
}

// known says whether all of it is in the store already, the names included: then nothing is written.
func (d *Draft) known(i *Image, desc ocispec.Descriptor, names []string) (bool, error) {
	if len(d.records)+len(d.aliases)+len(d.times) > 0 {
		return false, nil
	}
	idx, err := d.s.loadIndex()
	if err != nil || !hasEntry(idx, desc.Digest) {
		return false, err
	}
	named := func(name string) bool {
		return slices.ContainsFunc(idx.Manifests, func(e ocispec.Descriptor) bool {
			return e.Digest == desc.Digest && entryName(e) == name
		})
	}
	for _, n := range names {
		if !named(n) {
			return false, nil
		}
	}
	return true, d.s.Measure(i)
}

// commit moves the layers of an image, and those that the cache is to know, to where they belong.
func (d *Draft) commit(layers []*Layer, update func(*ocispec.Index) error) error {
	for _, l := range slices.AppendSeq(slices.Clone(layers), maps.Values(d.records)) {
		if l.room == "" || slices.ContainsFunc(d.c.layers, func(s *stagedLayer) bool { return s.from == l.room }) {
			continue
		}
		d.c.layers = append(d.c.layers, &stagedLayer{l.room, l.chain})
		if err := d.c.stage("", l.Blob.Digest); err != nil {
			return err
		}
	}
	d.c.also = d.writeRecords
	return d.c.commit(update)
}

// On says whether the layer was made on top of another one, or, of nil, of nothing.
func (l *Layer) On(below *Layer) bool {
	if below == nil {
		return l.chain == l.DiffID
	}
	return below.Wait() == nil && l.chain == chain([]digest.Digest{below.chain, l.DiffID})[1]
}
