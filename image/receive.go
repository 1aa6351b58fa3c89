package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// Incoming is an image that comes from elsewhere, a registry or an archive, with its manifest as it is there.
type Incoming struct {
	Names     []string // what it is to be called: tags, and names by digest; it may have no name
	Manifest  []byte   // of one image, no index
	MediaType string   // of the manifest; empty: what the manifest says

	// Open gives a blob that the manifest names, from an offset on. It is called for what the store does not have, from
	// several goroutines. Who reads checks size and digest.
	Open func(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error)

	// Check may refuse the image when its config has come, before its layers do. It may be nil.
	Check func(*Image) error

	// Progress is told what happens to each layer, by several goroutines. It may be nil.
	Progress func(Progress)

	layers []ocispec.Descriptor
}

// Progress is what happens to a layer.
type Progress struct {
	Layer   int // the lowest is 0
	Digest  digest.Digest
	State   ReceiveState
	Current int64 // bytes that are here
	Total   int64
}

// ReceiveState is how far a layer is.
type ReceiveState int

// The states of a layer, in their order.
const (
	Waiting   ReceiveState = iota
	Present                // it was here before
	Receiving              // and being unpacked on the way
	Received
)

func (o *Incoming) report(n int, p Progress) {
	if o.Progress != nil {
		p.Layer, p.Digest, p.Total = n, o.layers[n].Digest, o.layers[n].Size
		o.Progress(p)
	}
}

// Limits of what comes from elsewhere.
const (
	MaxManifest = maxManifest
	maxLayers   = 500 // overlay mounts no more, see OVL_MAX_STACK in the kernel's fs/overlayfs
	receivers   = 3   // layers at a time, as Docker does it
)

// Receive puts an image into the store that comes from elsewhere. Its digest stays what it was. What is here already is not
// fetched, layers come and are unpacked several at a time, and whatever is not what its digest says is refused. All or
// nothing; but what has come of the layers is kept for the next try. changed says whether the first name leads to another
// image now than before.
func (s *Store) Receive(ctx context.Context, o Incoming) (i *Image, changed bool, err error) {
	i, err = o.parseManifest()
	if err != nil {
		return nil, false, err
	}
	if old, ok := s.has(i, o.Names); ok {
		if o.Check != nil {
			if err := o.Check(old); err != nil {
				return nil, false, err
			}
		}
		return old, false, s.Measure(old)
	}
	s.dropPartials(time.Now().Add(-partialAge))
	// Who wants the same image at the same time waits, and then finds it here.
	c, err := s.begin(ctx, "receive-"+digest.Digest(i.Digest).Encoded())
	if err != nil {
		return nil, false, err
	}
	r := &receiver{change: c, o: &o, i: i}
	defer func() { err = errors.Join(err, r.close(), c.abort()) }()
	if _, err := c.stageBlob(i.manifest.MediaType, o.Manifest); err != nil {
		return nil, false, err
	}
	if err := r.config(ctx); err != nil {
		return nil, false, err
	}
	if o.Check != nil {
		if err := o.Check(i); err != nil {
			return nil, false, err
		}
	}
	if err := r.layers(ctx); err != nil {
		return nil, false, err
	}
	if err := r.stage(); err != nil {
		return nil, false, err
	}
	i.Tagged = time.Now()
	err = c.commit(func(idx *ocispec.Index) error {
		changed = r.name(idx)
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	i, err = s.Resolve(i.ID)
	if err == nil {
		i.Lost = r.i.Lost
		err = s.Measure(i)
	}
	return i, changed, err
}

// has says whether an image is here already, whole, and called what it is to be called.
func (s *Store) has(i *Image, names []string) (*Image, bool) {
	old, err := s.Resolve(i.ID)
	if err != nil || old.Digest != i.Digest {
		return nil, false
	}
	have := append(slices.Clone(old.Names), old.Digests...)
	for _, n := range names {
		if !slices.Contains(have, n) {
			return nil, false
		}
	}
	for n, chain := range old.Chain() {
		d := old.manifest.Layers[n]
		st, err := os.Lstat(s.blobPath(d.Digest))
		if _, infoErr := s.layerInfo(chain); err != nil || infoErr != nil || st.Size() != d.Size {
			return nil, false
		}
	}
	return old, true
}

// parseManifest reads what can be known from the manifest alone.
func (o *Incoming) parseManifest() (*Image, error) {
	if len(o.Manifest) > maxManifest {
		return nil, fmt.Errorf("manifest has %d bytes, more than %d: %w", len(o.Manifest), maxManifest, ErrContent)
	}
	i := &Image{Digest: string(digest.FromBytes(o.Manifest)), manifestSize: int64(len(o.Manifest))}
	m := &i.manifest
	if err := json.Unmarshal(o.Manifest, m); err != nil {
		return nil, fmt.Errorf("read manifest: %w: %w", err, ErrContent)
	}
	if o.MediaType != "" {
		m.MediaType = o.MediaType
	}
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	switch {
	case m.SchemaVersion != 2:
		return nil, fmt.Errorf("manifest has schema version %d, not 2: %w", m.SchemaVersion, ErrContent)
	case !isDigest(m.Config.Digest):
		return nil, fmt.Errorf("manifest names the config %q: %w", m.Config.Digest, ErrContent)
	case m.Config.Size <= 0 || m.Config.Size > maxConfig:
		return nil, fmt.Errorf("manifest names a config of %d bytes: %w", m.Config.Size, ErrContent)
	case len(m.Layers) > maxLayers:
		return nil, fmt.Errorf("image has %d layers, and no more than %d can be mounted: %w", len(m.Layers), maxLayers, ErrContent)
	}
	for _, d := range m.Layers {
		if err := checkLayerDescriptor(d); err != nil {
			return nil, err
		}
	}
	i.ID, o.layers = string(m.Config.Digest), m.Layers
	return i, nil
}

// receiver is an image on its way into the store.
type receiver struct {
	*change
	o    *Incoming
	i    *Image
	jobs []*layerJob
	form unionfs.Form
	mu   sync.Mutex // for what several layers add to
}

// layerJob is a blob, and the layers that it is. It is more than one, for instance, where an image takes the same thing away
// twice.
type layerJob struct {
	blob   ocispec.Descriptor
	layers []int
	part   *partial
	linked bool // the store has the blob, and now the change has it, too
	ready  []*stagedLayer
}

// config fetches and checks the config, which says what the layers are.
func (r *receiver) config(ctx context.Context) error {
	d := r.i.manifest.Config
	text, err := r.s.blob(d.Digest, maxConfig)
	if err != nil {
		if text, err = r.small(ctx, d); err != nil {
			return fmt.Errorf("config %s: %w", ShortID(string(d.Digest)), err)
		}
	}
	if _, err := r.stageBlob(d.MediaType, text); err != nil {
		return err
	}
	if err := r.i.parseConfig(text); err != nil {
		// It is wrong as it came, and not because of the store.
		why := strings.TrimSuffix(err.Error(), ": "+ErrCorrupt.Error())
		return fmt.Errorf("config %s: %s: %w", ShortID(string(d.Digest)), why, ErrContent)
	}
	return nil
}

// small fetches a blob that fits into memory.
func (r *receiver) small(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	in, err := r.o.Open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, d.Size+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(text)) != d.Size:
		return nil, fmt.Errorf("it has not the %d bytes that were announced: %w", d.Size, ErrContent)
	case digest.FromBytes(text) != d.Digest:
		return nil, fmt.Errorf("it is %s, not %s: %w", digest.FromBytes(text), d.Digest, ErrContent)
	}
	return text, nil
}

// layers brings all layers here.
func (r *receiver) layers(ctx context.Context) error {
	ids, diffs := r.i.Chain(), r.i.Config.RootFS.DiffIDs
	byDigest := map[digest.Digest]*layerJob{}
	for n, d := range r.o.layers {
		j := byDigest[d.Digest]
		if j == nil {
			j = &layerJob{blob: d}
			byDigest[d.Digest] = j
			r.jobs = append(r.jobs, j)
		} else if first := j.layers[0]; diffs[first] != diffs[n] || j.blob.Size != d.Size {
			return fmt.Errorf("layers %d and %d are the same blob and not the same content: %w", first+1, n+1, ErrContent)
		}
		j.layers = append(j.layers, n)
		r.o.report(n, Progress{State: Waiting})
	}
	if len(r.o.layers) > 1 {
		var err error
		if r.form, err = unionfs.FormFor(r.dir); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(receivers)
	for _, j := range r.jobs {
		g.Go(func() error {
			if err := r.layer(ctx, j, ids, diffs); err != nil {
				return fmt.Errorf("layer %s: %w", ShortID(string(j.blob.Digest)), err)
			}
			return nil
		})
	}
	err := g.Wait()
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	return err
}

// layer brings one blob here and unpacks it as each of its layers.
func (r *receiver) layer(ctx context.Context, j *layerJob, ids, diffs []digest.Digest) error {
	// A link of our own, so that nobody removes the blob between now and the commit.
	link := filepath.Join(r.dir, j.blob.Digest.Encoded())
	if st, err := os.Lstat(r.s.blobPath(j.blob.Digest)); err == nil && st.Size() == j.blob.Size {
		err := os.Link(r.s.blobPath(j.blob.Digest), link)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return storeError("store layer", err)
		}
		j.linked = err == nil
	}
	for _, n := range j.layers {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := r.s.layerInfo(ids[n]); err == nil && (j.linked || j.part != nil) {
			r.o.report(n, Progress{State: Present})
			continue
		}
		form := noMarks
		if n > 0 {
			form = r.form
		}
		folder := "layer-" + strconv.Itoa(n)
		if j.linked {
			err := r.again(ctx, link, j.blob, diffs[n], folder, form)
			if errors.Is(err, ErrCorrupt) { // the store's is broken, so here comes a new one
				err = errors.Join(os.Remove(link), removeTree(filepath.Join(r.dir, folder)))
				j.linked = false
			}
			if err != nil {
				return err
			}
		}
		var lost map[string]int
		var err error
		switch {
		case j.linked:
		case j.part != nil: // it has just come
			err = r.again(ctx, j.part.path, j.blob, diffs[n], folder, form)
		default:
			if j.part, err = r.openPartial(j.blob.Digest); err == nil {
				lost, err = r.fetch(ctx, j.part, r.o, n, diffs[n], folder, form)
			}
		}
		if err != nil {
			return err
		}
		r.lost(lost)
		j.ready = append(j.ready, &stagedLayer{filepath.Join(r.dir, folder), ids[n]})
		r.o.report(n, Progress{State: Received, Current: j.blob.Size})
	}
	return nil
}

// lost adds up what could not be unpacked.
func (r *receiver) lost(more map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for what, n := range more {
		if r.i.Lost == nil {
			r.i.Lost = map[string]int{}
		}
		r.i.Lost[what] += n
	}
}

// again unpacks a blob that is here.
func (r *receiver) again(ctx context.Context, path string, d ocispec.Descriptor, diff digest.Digest, folder string, form unionfs.Form) error {
	f, err := os.Open(path)
	if err != nil {
		return storeError("read layer", err)
	}
	defer f.Close()
	in, err := r.ingest(ctx, f, reading{folder: folder, form: form, want: expected{blob: d.Digest, diff: diff, size: d.Size}})
	r.lost(in.lost)
	return err
}

// stage makes all that has come part of the change.
func (r *receiver) stage() error {
	for _, j := range r.jobs {
		if j.part != nil {
			if err := os.Rename(j.part.path, filepath.Join(r.dir, j.blob.Digest.Encoded())); err != nil {
				return storeError("store layer", err)
			}
		}
		r.blobs = append(r.blobs, j.blob.Digest)
		r.change.layers = append(r.change.layers, j.ready...)
	}
	return nil
}

// name writes the image into the index, and says whether its first name is news.
func (r *receiver) name(idx *ocispec.Index) (changed bool) {
	parent, had := "", ""
	for _, e := range idx.Manifests {
		if len(r.o.Names) > 0 && entryName(e) == r.o.Names[0] {
			had = r.s.id(e)
		}
		if p := e.Annotations[annotationParent]; p != "" && r.s.id(e) == r.i.ID {
			parent = p // it was made here
		}
	}
	addNames(idx, r.i.Descriptor(), r.i.ID, parent, r.o.Names, r.i.Tagged)
	return had != r.i.ID
}

// close gives the locks back, and keeps what may be of use to the next one.
func (r *receiver) close() (err error) {
	for _, j := range r.jobs {
		if j.part != nil {
			err = errors.Join(err, j.part.close())
		}
	}
	return err
}
