package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// loading are the images of an archive, on their way into the store. Nobody sees any of them before commit, and a digest is
// believed only after what it is the digest of was read here.
type loading struct {
	s        *Store
	c        *change
	progress func(Progress)
	form     func() (unionfs.Form, error)
	images   []loadedImage
	chains   map[digest.Digest]bool // the layers that are unpacked in the change

	rowMu sync.Mutex
	rows  map[string]int // what the progress calls a layer → its number

	looseMu     sync.Mutex
	looseLayers map[digest.Digest]*looseLayer // by the digests of their blobs
	looseNames  map[string]ocispec.Descriptor // by their names in the archive
}

// incoming is an image that is whole but for the layers that are not unpacked yet.
type loadedImage struct {
	*Image
	d     ocispec.Descriptor
	names []string
}

// source is one image, and where its layers come from.
type source struct {
	Manifest  []byte
	MediaType string // of the manifest, where it does not say it itself
	Config    []byte
	Names     []string // "busybox:latest", and by digest: "busybox@sha256:…"
	Parallel  int      // how many layers are read at a time; 0: three, as Docker does it

	// Layer opens layer n, the lowest being 0. It is called only for a blob that is not here, by several goroutines.
	Layer func(ctx context.Context, n int, d ocispec.Descriptor) (io.ReadCloser, error)
}

// beginLoading begins to take images. progress may be nil; it is called by several goroutines.
func (s *Store) beginLoading(ctx context.Context, progress func(Progress)) (*loading, error) {
	c, err := s.begin(ctx, "")
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	return &loading{
		s: s, c: c, progress: progress, form: sync.OnceValues(func() (unionfs.Form, error) { return unionfs.FormFor(c.dir) }),
		chains:      map[digest.Digest]bool{},
		looseLayers: map[digest.Digest]*looseLayer{}, looseNames: map[string]ocispec.Descriptor{}, rows: map[string]int{},
	}, nil
}

// Close throws away what was not committed.
func (in *loading) close() error { return in.c.abort() }

// Image takes one image, and returns when its layers are here.
func (in *loading) take(ctx context.Context, src source) (*Image, error) {
	i, d, err := src.parse()
	if err != nil {
		return nil, err
	}
	names, err := receivedNames(src.Names)
	if err != nil {
		return nil, err
	}
	if err := in.layers(ctx, i, src); err != nil {
		return nil, err
	}
	for _, blob := range [][]byte{src.Config, src.Manifest} {
		if _, err := in.c.stageBlob("", blob); err != nil {
			return nil, err
		}
	}
	i.Names = names
	in.images = append(in.images, loadedImage{i, d, names})
	return i, nil
}

// layers reads the layers that are missing.
func (in *loading) layers(ctx context.Context, i *Image, src source) error {
	chain := i.Chain()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(src.Parallel, 3))
	asked := map[digest.Digest]bool{}
	for n, d := range i.manifest.Layers {
		if err := in.useLoose(n, d, i.Config.RootFS.DiffIDs[n], chain[n]); err != nil {
			return errors.Join(err, group.Wait())
		}
		if asked[d.Digest] {
			continue // the same layer twice; the second one is unpacked from the blob
		}
		asked[d.Digest] = true
		if in.has(d) {
			in.tell(string(d.Digest), Present, d.Size, d.Size)
			continue
		}
		if src.Layer == nil {
			return errors.Join(fmt.Errorf("layer %s is missing: %w", ShortID(string(d.Digest)), ErrContent), group.Wait())
		}
		folder := ""
		if !in.unpacked(chain[n]) {
			folder = in.c.newFolder()
			in.chains[chain[n]] = true
		}
		staged := &stagedLayer{to: chain[n]} // it has no place before it is whole
		if folder != "" {
			in.c.layers = append(in.c.layers, staged)
		}
		group.Go(func() error {
			o := reading{keep: true, folder: folder, want: expected{blob: d.Digest, diff: i.Config.RootFS.DiffIDs[n], size: d.Size, wrong: ErrContent}}
			if err := in.read(ctx, n, d, o, src); err != nil {
				return fmt.Errorf("layer %s: %w", ShortID(string(d.Digest)), err)
			}
			staged.from = filepath.Join(in.c.dir, folder)
			return nil
		})
	}
	return group.Wait()
}

// has says whether a blob is here, in the store or in the change.
func (in *loading) has(d ocispec.Descriptor) bool {
	st, err := os.Lstat(in.s.blobPath(d.Digest))
	return in.c.staged(d.Digest) || err == nil && st.Mode().IsRegular() && st.Size() == d.Size
}

// unpacked says whether a layer is unpacked already, or is being.
func (in *loading) unpacked(chain digest.Digest) bool {
	_, err := in.s.layerInfo(chain)
	return err == nil || in.chains[chain]
}

// read reads one layer.
func (in *loading) read(ctx context.Context, n int, d ocispec.Descriptor, o reading, src source) (err error) {
	if o.form, err = in.formOf(n); err != nil {
		return err
	}
	from, err := src.Layer(ctx, n, d)
	if err != nil {
		return err
	}
	counted := &progressReader{Reader: from, in: in, layer: string(d.Digest), size: d.Size}
	_, err = in.c.ingest(ctx, counted, o)
	// A source that is slow to end must not be closed while it is read: ingest has stopped by now, or it stops with the context.
	if err := errors.Join(err, from.Close()); err != nil {
		return err
	}
	in.tell(string(d.Digest), Received, d.Size, d.Size)
	return nil
}

// formOf is the form in which layer n is unpacked first.
func (in *loading) formOf(n int) (unionfs.Form, error) {
	if n == 0 {
		return noMarks, nil
	}
	return in.form() // which tries it
}

// newFolder names a folder of the change that nothing else has.
func (c *change) newFolder() string { return fmt.Sprintf("layer-%d", c.number.Add(1)) }

// progressReader tells what was read.
type progressReader struct {
	io.Reader
	in         *loading
	layer      string
	done, size int64
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.done += int64(n)
	p.in.tell(p.layer, Receiving, p.done, p.size)
	return n, err
}

// tell says how far a layer is. It is numbered when it is first heard of.
func (in *loading) tell(layer string, state ReceiveState, done, size int64) {
	in.rowMu.Lock()
	n, ok := in.rows[layer]
	if !ok {
		n = len(in.rows)
		in.rows[layer] = n
	}
	in.rowMu.Unlock()
	in.progress(Progress{Layer: n, Digest: digest.Digest(layer), State: state, Current: done, Total: size})
}

// commit unpacks what is not unpacked yet, and makes the images part of the store. It returns them in the order in which they
// came. A name that another image had goes to the new one; see [Image.Replaced].
func (in *loading) commit(ctx context.Context) ([]*Image, error) {
	if err := in.unpackRest(ctx); err != nil {
		return nil, err
	}
	now := time.Now()
	err := in.c.commit(func(idx *ocispec.Index) error {
		for _, i := range in.images {
			for _, l := range i.manifest.Layers { // what was here may have been removed meanwhile
				if !in.has(l) {
					return fmt.Errorf("layer %s was removed meanwhile: %w", ShortID(string(l.Digest)), fs.ErrNotExist)
				}
			}
			i.Replaced = in.s.replaced(idx, i.names, i.ID)
			i.Tagged = now
			addNames(idx, i.d, i.ID, "", i.names, now)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var list []*Image
	for _, i := range in.images {
		list = append(list, i.Image)
	}
	return list, nil
}

// replaced tells which images lose a name.
func (s *Store) replaced(idx *ocispec.Index, names []string, id string) map[string]string {
	lost := map[string]string{}
	for _, e := range idx.Manifests {
		if name := entryName(e); name != "" && slices.Contains(names, name) && s.id(e) != id {
			lost[name] = s.id(e)
		}
	}
	return lost
}

// unpackRest unpacks the layers whose blobs were here.
func (in *loading) unpackRest(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, i := range in.images {
		for n, chain := range i.Chain() {
			if in.unpacked(chain) {
				continue
			}
			in.chains[chain] = true
			staged, folder := &stagedLayer{to: chain}, in.c.newFolder()
			in.c.layers = append(in.c.layers, staged)
			group.Go(func() error {
				d := i.manifest.Layers[n]
				in.tell(string(d.Digest), Receiving, 0, d.Size)
				form, err := in.formOf(n)
				if err == nil {
					err = in.c.fromBlob(ctx, d, reading{folder: folder, form: form, want: expected{diff: i.Config.RootFS.DiffIDs[n]}})
				}
				if err != nil {
					return fmt.Errorf("layer %s: %w", ShortID(string(d.Digest)), err)
				}
				staged.from = filepath.Join(in.c.dir, folder)
				in.tell(string(d.Digest), Received, d.Size, d.Size)
				return nil
			})
		}
	}
	return group.Wait()
}

// The media types of images, in both families.
const (
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	oldConfig    = "application/octet-stream" // some registries call it that
)

// parse reads manifest and config, and checks all that can be checked without the layers.
func (src *source) parse() (i *Image, d ocispec.Descriptor, err error) {
	i = &Image{Digest: string(digest.FromBytes(src.Manifest)), manifestSize: int64(len(src.Manifest))}
	if len(src.Manifest) > maxManifest || len(src.Config) > maxConfig {
		return nil, d, fmt.Errorf("manifest of %d bytes, config of %d: %w", len(src.Manifest), len(src.Config), unix.EFBIG)
	}
	if err := json.Unmarshal(src.Manifest, &i.manifest); err != nil {
		return nil, d, fmt.Errorf("read manifest: %w", err)
	}
	m := &i.manifest
	if m.MediaType == "" {
		m.MediaType = src.MediaType
	}
	switch m.MediaType {
	case "", ocispec.MediaTypeImageManifest, dockerManifest:
	default:
		return nil, d, fmt.Errorf("manifest of type %q: only images of OCI and of Docker's schema 2 are known: %w", m.MediaType, errors.ErrUnsupported)
	}
	switch m.Config.MediaType {
	case "", ocispec.MediaTypeImageConfig, dockerConfig, oldConfig:
	default:
		return nil, d, fmt.Errorf("this is no image, but an artifact of type %q: %w", m.Config.MediaType, errors.ErrUnsupported)
	}
	if got := digest.FromBytes(src.Config); got != m.Config.Digest {
		return nil, d, fmt.Errorf("config is %s, not %s: %w", got, m.Config.Digest, ErrContent)
	}
	i.ID = string(m.Config.Digest)
	if len(m.Layers) > maxLayers {
		return nil, d, fmt.Errorf("%d layers: more than %d cannot be mounted: %w", len(m.Layers), maxLayers, unix.EFBIG)
	}
	for _, l := range m.Layers {
		if !isDigest(l.Digest) || l.Size < 0 {
			return nil, d, fmt.Errorf("layer %q of %d bytes: %w", l.Digest, l.Size, ErrContent)
		}
	}
	if err := i.parseConfig(src.Config); err != nil {
		return nil, d, err
	}
	return i, i.Descriptor(), nil
}

// receivedNames reads names that come with an image. Those by digest are kept as they are.
func receivedNames(refs []string) (names []string, err error) {
	for _, ref := range refs {
		n, err := ParseName(ref)
		if err != nil {
			return nil, err
		}
		if n.Digest != "" {
			n.Tag = ""
		}
		if name := n.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}
