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

// Incoming are images that come from elsewhere, an archive or a registry. Nobody sees any of them before Commit, and a
// digest is believed only after what it is the digest of was read here.
type Incoming struct {
	s        *Store
	c        *change
	progress func(Progress)
	images   []incoming
	chains   map[digest.Digest]bool // the layers that are unpacked in the change

	looseMu     sync.Mutex
	looseLayers map[digest.Digest]*looseLayer // by the digests of their blobs
	looseNames  map[string]ocispec.Descriptor // by their names in the archive
}

// incoming is an image that is whole but for the layers that are not unpacked yet.
type incoming struct {
	*Image
	d     ocispec.Descriptor
	names []string
}

// Progress is how far a layer is.
type Progress struct {
	Layer       string // its blob's digest, as people read it
	State       State
	Done, Total int64 // bytes that were read; Total is 0 where nobody knows
}

// State is what is being done to a layer.
type State string

const (
	Exists  State = "Already exists"
	Reading State = "Reading" // it is unpacked on the way
	Whole   State = "Complete"
	Unpacks State = "Unpacking" // it was here already, as it came
)

// Source is one image, and where its layers come from.
type Source struct {
	Manifest  []byte
	MediaType string // of the manifest, where it does not say it itself
	Config    []byte
	Names     []string // "busybox:latest", and by digest: "busybox@sha256:…"
	Parallel  int      // how many layers are read at a time; 0: three, as Docker does it

	// Layer opens layer n, the lowest being 0. It is called only for a blob that is not here, by several goroutines.
	Layer func(ctx context.Context, n int, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Receive begins to take images. progress may be nil; it is called by several goroutines.
func (s *Store) Receive(ctx context.Context, progress func(Progress)) (*Incoming, error) {
	c, err := s.begin(ctx, "")
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	return &Incoming{
		s: s, c: c, progress: progress, chains: map[digest.Digest]bool{},
		looseLayers: map[digest.Digest]*looseLayer{}, looseNames: map[string]ocispec.Descriptor{},
	}, nil
}

// Close throws away what was not committed.
func (in *Incoming) Close() error { return in.c.abort() }

// Image takes one image, and returns when its layers are here.
func (in *Incoming) Image(ctx context.Context, src Source) (*Image, error) {
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
	in.images = append(in.images, incoming{i, d, names})
	return i, nil
}

// layers reads the layers that are missing.
func (in *Incoming) layers(ctx context.Context, i *Image, src Source) error {
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
			in.progress(Progress{ShortID(string(d.Digest)), Exists, d.Size, d.Size})
			continue
		}
		if src.Layer == nil {
			return errors.Join(fmt.Errorf("layer %s is missing: %w", ShortID(string(d.Digest)), ErrCorrupt), group.Wait())
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
			o := reading{keep: true, folder: folder, want: expected{blob: d.Digest, diff: i.Config.RootFS.DiffIDs[n], size: d.Size}}
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
func (in *Incoming) has(d ocispec.Descriptor) bool {
	st, err := os.Lstat(in.s.blobPath(d.Digest))
	return in.c.staged(d.Digest) || err == nil && st.Mode().IsRegular() && st.Size() == d.Size
}

// unpacked says whether a layer is unpacked already, or is being.
func (in *Incoming) unpacked(chain digest.Digest) bool {
	_, err := in.s.layerInfo(chain)
	return err == nil || in.chains[chain]
}

// read reads one layer.
func (in *Incoming) read(ctx context.Context, n int, d ocispec.Descriptor, o reading, src Source) (err error) {
	if o.form, err = in.c.formOf(n); err != nil {
		return err
	}
	from, err := src.Layer(ctx, n, d)
	if err != nil {
		return err
	}
	counted := &progressReader{from, Progress{ShortID(string(d.Digest)), Reading, 0, d.Size}, in.progress}
	_, err = in.c.ingest(ctx, counted, o)
	// A source that is slow to end must not be closed while it is read: ingest has stopped by now, or it stops with the context.
	if err := errors.Join(err, from.Close()); err != nil {
		return err
	}
	in.progress(Progress{ShortID(string(d.Digest)), Whole, d.Size, d.Size})
	return nil
}

// formOf is the form in which layer n is unpacked first.
func (c *change) formOf(n int) (unionfs.Form, error) {
	if n == 0 {
		return noMarks, nil
	}
	return unionfs.FormFor(c.dir)
}

// newFolder names a folder of the change that nothing else has.
func (c *change) newFolder() string { return fmt.Sprintf("layer-%d", c.number.Add(1)) }

// progressReader tells what was read.
type progressReader struct {
	io.Reader
	Progress
	tell func(Progress)
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.Done += int64(n)
	p.tell(p.Progress)
	return n, err
}

// Commit unpacks what is not unpacked yet, and makes the images part of the store. It returns them in the order in which they
// came. A name that another image had goes to the new one; see [Image.Replaced].
func (in *Incoming) Commit(ctx context.Context) ([]*Image, error) {
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
func (in *Incoming) unpackRest(ctx context.Context) error {
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
				in.progress(Progress{ShortID(string(d.Digest)), Unpacks, 0, d.Size})
				form, err := in.c.formOf(n)
				if err == nil {
					err = in.c.fromBlob(ctx, folder, d, i.Config.RootFS.DiffIDs[n], form)
				}
				if err != nil {
					return fmt.Errorf("layer %s: %w", ShortID(string(d.Digest)), err)
				}
				staged.from = filepath.Join(in.c.dir, folder)
				in.progress(Progress{ShortID(string(d.Digest)), Whole, d.Size, d.Size})
				return nil
			})
		}
	}
	return group.Wait()
}

// Keep puts the blobs and layers that are whole into the store, though no name leads to them: whoever tries again does not
// have to begin at the beginning. The next command that looks for garbage takes them away.
func (in *Incoming) Keep() (err error) {
	in.c.layers = slices.DeleteFunc(in.c.layers, func(l *stagedLayer) bool { return l.from == "" })
	defer func() { err = errors.Join(err, in.c.abort()) }()
	if err := unix.Syncfs(int(in.c.lock.Fd())); err != nil {
		return storeError("write layers to the disk", err)
	}
	return in.s.locked(unix.LOCK_EX, in.c.move)
}

// The media types of images, in both families.
const (
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	oldConfig    = "application/octet-stream" // some registries call it that
)

// maxLayers is how many overlay takes (fs/overlayfs/params.h: OVL_MAX_STACK); no honest image has a third of it.
const maxLayers = 500

// parse reads manifest and config, and checks all that can be checked without the layers.
func (src *Source) parse() (i *Image, d ocispec.Descriptor, err error) {
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
		return nil, d, fmt.Errorf("config is %s, not %s: %w", got, m.Config.Digest, ErrCorrupt)
	}
	i.ID = string(m.Config.Digest)
	if len(m.Layers) > maxLayers {
		return nil, d, fmt.Errorf("%d layers: more than %d cannot be mounted: %w", len(m.Layers), maxLayers, unix.EFBIG)
	}
	for _, l := range m.Layers {
		if !isDigest(l.Digest) || l.Size < 0 {
			return nil, d, fmt.Errorf("layer %q of %d bytes: %w", l.Digest, l.Size, ErrCorrupt)
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
