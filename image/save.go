package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Format is how images are written.
type Format string

const (
	// DockerArchive is an OCI layout in a tar, and in it Docker's own lists, too: what Docker has written since version 25, and
	// what all of Docker, Podman, skopeo and umoci read.
	DockerArchive Format = "docker-archive"
	OCIArchive    Format = "oci-archive" // an OCI layout in a tar, and nothing else
	OCIDir        Format = "oci-dir"     // an OCI layout in a folder
)

// Saving is some images on their way out. All their files are open, so it does not matter what becomes of the images meanwhile.
type Saving struct {
	format Format
	images []*savedImage
	blobs  map[digest.Digest]savedBlob // layers
	texts  map[digest.Digest][]byte
}

// savedBlob is a layer. One that is unpacked on the way is known by its diff id.
type savedBlob struct {
	f      *os.File
	size   int64
	unpack bool
}

type savedImage struct {
	*Image
	names  []string
	config []byte
	text   []byte // of the manifest
}

// Save takes hold of images. A name without a tag means all tags of that name, as in Docker, and an id an image without a name.
func (s *Store) Save(refs []string, f Format) (sv *Saving, err error) {
	if f != DockerArchive && f != OCIArchive && f != OCIDir {
		return nil, fmt.Errorf("format %q: there are %s, %s and %s: %w", f, DockerArchive, OCIArchive, OCIDir, errors.ErrUnsupported)
	}
	sv = &Saving{format: f, blobs: map[digest.Digest]savedBlob{}, texts: map[digest.Digest][]byte{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, sv.Close())
		}
	}()
	if _, err := os.Lstat(s.images()); errors.Is(err, fs.ErrNotExist) && len(refs) > 0 {
		return sv, &NotFoundError{refs[0]} // nothing to lock, nothing to find
	}
	return sv, s.locked(unix.LOCK_SH, func() error {
		idx, err := s.loadIndex()
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if err := sv.take(s, idx, ref); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close gives the files back.
func (sv *Saving) Close() (err error) {
	for _, b := range sv.blobs {
		err = errors.Join(err, b.f.Close())
	}
	return err
}

// take finds the images that a reference means.
func (sv *Saving) take(s *Store, idx *ocispec.Index, ref string) error {
	n, why := parseName(ref)
	if why == "" && n.Tag == "" && n.Digest == "" {
		some := false
		for _, e := range idx.Manifests {
			if name := entryName(e); name != "" && !byDigest(name) && repositoryOf(name) == n.Repository() {
				some = true
				if err := sv.image(s, idx, e, name); err != nil {
					return err
				}
			}
		}
		if some {
			return nil
		}
	}
	d, err := s.find(idx, ref)
	if err != nil {
		return err
	}
	name := ""
	if named, ok := findName(idx, n); why == "" && n.Digest == "" && ok && named.Digest == d.Digest {
		name = entryName(named)
	}
	return sv.image(s, idx, d, name)
}

// image opens an image's files.
func (sv *Saving) image(s *Store, idx *ocispec.Index, d ocispec.Descriptor, name string) error {
	i, err := s.load(idx, d)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(sv.images, func(o *savedImage) bool { return o.ID == i.ID })
	if n >= 0 {
		if name != "" && !slices.Contains(sv.images[n].names, name) {
			sv.images[n].names = append(sv.images[n].names, name)
		}
		return nil
	}
	o := &savedImage{Image: i}
	if name != "" {
		o.names = []string{name}
	}
	if o.config, err = s.blob(digest.Digest(i.ID), maxConfig); err != nil {
		return err
	}
	if o.text, err = s.blob(digest.Digest(i.Digest), maxManifest); err != nil {
		return err
	}
	if sv.format != DockerArchive && i.manifest.MediaType == dockerManifest {
		if err := o.convert(); err != nil {
			return err
		}
	}
	if err := sv.layers(s, o); err != nil {
		return fmt.Errorf("image %s: %w", ShortID(i.ID), err)
	}
	sv.texts[digest.Digest(i.ID)], sv.texts[digest.Digest(i.Digest)] = o.config, o.text
	sv.images = append(sv.images, o)
	return nil
}

// layers opens an image's layers.
func (sv *Saving) layers(s *Store, i *savedImage) error {
	open := make([]savedBlob, len(i.manifest.Layers))
	packed, young := 0, false
	for n, l := range i.manifest.Layers {
		f, err := os.OpenFile(s.blobPath(l.Digest), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("layer %s: %w", ShortID(string(l.Digest)), err)
		}
		open[n] = savedBlob{f: f, size: l.Size}
		defer func() {
			if sv.blobs[i.manifest.Layers[n].Digest].f != f { // another image has it, too; or there was an error
				f.Close()
			}
		}()
		head := make([]byte, 6)
		if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("layer %s: %w", ShortID(string(l.Digest)), err)
		}
		if open[n].unpack = isPacked(head); open[n].unpack {
			packed++
		}
		young = young || packingOf(head).mediaType == ocispec.MediaTypeImageLayerZstd
	}
	if alike := packed == 0 || packed == len(open) && !young; sv.format != DockerArchive || alike {
		for n := range open {
			open[n].unpack = false
		}
	} else if err := i.unpackLayers(s, open); err != nil {
		return err
	}
	for n, l := range i.manifest.Layers {
		if sv.blobs[l.Digest].f == nil {
			sv.blobs[l.Digest] = open[n]
		}
	}
	return nil
}

// unpackLayers makes a manifest in which no layer is packed. Docker's form says of none how it is packed, and there are programs
// that look at the first one, and take the others to be like it; and Docker itself knows zstd only since version 23.
func (i *savedImage) unpackLayers(s *Store, open []savedBlob) error {
	i.manifest.Layers = slices.Clone(i.manifest.Layers)
	for n, chain := range i.Chain() {
		if !open[n].unpack {
			continue
		}
		info, err := s.layerInfo(chain)
		if open[n].size = info.Tar; err != nil || info.Tar == 0 {
			if open[n].size, err = tarSize(open[n].f); err != nil {
				return fmt.Errorf("layer %s: %w", ShortID(string(i.manifest.Layers[n].Digest)), err)
			}
		}
		i.manifest.Layers[n] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: i.Config.RootFS.DiffIDs[n], Size: open[n].size}
	}
	return i.newManifest()
}

// tarSize measures what a packed layer holds.
func tarSize(f *os.File) (int64, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	content, _, err := decompressed(ctx, newPipe(ctx, io.NewSectionReader(f, 0, maxLayer), nil, maxLayer))
	if err != nil {
		return 0, err
	}
	return io.Copy(io.Discard, content)
}

// convert makes an OCI manifest of Docker's: they differ in the names of their types. What it holds stays as it is.
func (i *savedImage) convert() error {
	i.manifest.Layers = slices.Clone(i.manifest.Layers)
	for n, l := range i.manifest.Layers {
		switch l.MediaType {
		case "application/vnd.docker.image.rootfs.diff.tar":
			l.MediaType = ocispec.MediaTypeImageLayer
		case "application/vnd.docker.image.rootfs.diff.tar.gzip":
			l.MediaType = ocispec.MediaTypeImageLayerGzip
		case "application/vnd.docker.image.rootfs.diff.tar.zstd":
			l.MediaType = ocispec.MediaTypeImageLayerZstd
		}
		i.manifest.Layers[n] = l
	}
	return i.newManifest()
}

// newManifest writes the manifest anew, which gives it another digest. The image's id stays.
func (i *savedImage) newManifest() (err error) {
	i.manifest.Versioned, i.manifest.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	i.manifest.Config.MediaType = ocispec.MediaTypeImageConfig
	i.text, err = json.Marshal(i.manifest)
	i.Digest, i.manifestSize = string(digest.FromBytes(i.text)), int64(len(i.text))
	return err
}

// sink is where an archive's files go.
type sink interface {
	folder(name string) error
	file(name string, size int64, write func(io.Writer) error) error
}

// Write writes the archive. The same images give the same bytes.
func (sv *Saving) Write(ctx context.Context, w io.Writer) error {
	out := &tarSink{tar.NewWriter(w)}
	if err := sv.all(ctx, out); err != nil {
		return err
	}
	return out.w.Close()
}

// WriteFolder writes an OCI layout into a folder, which is made, or is empty.
func (sv *Saving) WriteFolder(ctx context.Context, dir string) (err error) {
	dir = filepath.Clean(dir)
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: %w", dir, fs.ErrExist)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	aside, err := os.MkdirTemp(filepath.Dir(dir), ".tmp-"+filepath.Base(dir)+"-")
	if err != nil {
		return err
	}
	err = os.Chmod(aside, 0o755)
	if err == nil {
		err = sv.all(ctx, folderSink(aside))
	}
	if err == nil {
		err = os.Rename(aside, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(aside))
	}
	return nil
}

func (sv *Saving) all(ctx context.Context, out sink) error {
	for _, name := range []string{"blobs", "blobs/sha256"} {
		if err := out.folder(name); err != nil {
			return err
		}
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(sv.texts)), maps.Keys(sv.blobs))
	slices.Sort(names)
	for _, d := range slices.Compact(names) {
		if err := sv.blob(ctx, out, d); err != nil {
			return err
		}
	}
	texts := map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, ocispec.ImageIndexFile: sv.index(),
	}
	order := []string{ocispec.ImageIndexFile, ocispec.ImageLayoutFile}
	if sv.format == DockerArchive {
		texts[dockerList], texts[oldNames] = sv.list(), sv.oldList()
		order = []string{ocispec.ImageIndexFile, dockerList, ocispec.ImageLayoutFile, oldNames}
	}
	for _, name := range order {
		text, err := json.Marshal(texts[name])
		if err == nil {
			err = out.file(name, int64(len(text)), writeText(text))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeText(text []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	}
}

// blob copies one blob, and looks whether it still is what its digest says: nobody wants to find that out from the copy.
func (sv *Saving) blob(ctx context.Context, out sink, d digest.Digest) error {
	name := blobName(d)
	if text, ok := sv.texts[d]; ok {
		return out.file(name, int64(len(text)), writeText(text))
	}
	b := sv.blobs[d]
	return out.file(name, b.size, func(w io.Writer) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		in := newPipe(ctx, io.NewSectionReader(b.f, 0, maxLayer), nil, maxLayer) // it reads ahead, and hashes
		if b.unpack {
			content, _, err := decompressed(ctx, in)
			if err != nil {
				return err
			}
			in = content
		}
		if _, err := io.CopyBuffer(w, struct{ io.Reader }{in}, make([]byte, chunkSize)); err != nil {
			return err
		}
		if got := in.digest(); got != d {
			return fmt.Errorf("layer is %s, not %s: %w", got, d, ErrCorrupt)
		}
		return nil
	})
}

// index is the layout's list of images.
func (sv *Saving) index() ocispec.Index {
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, i := range sv.images {
		d := i.Descriptor()
		d.Platform = &ocispec.Platform{Architecture: i.Config.Architecture, OS: i.Config.OS, Variant: i.Config.Variant}
		if len(i.names) == 0 {
			idx.Manifests = append(idx.Manifests, d)
		}
		for _, name := range i.names {
			d.Annotations = map[string]string{annotationName: name, annotationC: fullName(name)}
			idx.Manifests = append(idx.Manifests, d)
		}
	}
	return idx
}

// fullName is a name with what it has left out: "docker.io/library/busybox:latest".
func fullName(name string) string {
	if n, why := parseName(name); why == "" {
		return n.Full()
	}
	return name
}

// list is Docker's list of images.
func (sv *Saving) list() []listed {
	list := []listed{}
	for _, i := range sv.images {
		l := listed{Config: blobName(digest.Digest(i.ID)), RepoTags: i.names, Layers: []string{}}
		for _, d := range i.manifest.Layers {
			l.Layers = append(l.Layers, blobName(d.Digest))
		}
		list = append(list, l)
	}
	return list
}

// oldList is that of Docker before 1.10, which other tools still look for.
func (sv *Saving) oldList() map[string]map[string]string {
	names := map[string]map[string]string{}
	for _, i := range sv.images {
		top := strings.TrimPrefix(i.ID, "sha256:")
		if n := len(i.manifest.Layers); n > 0 {
			top = i.manifest.Layers[n-1].Digest.Encoded()
		}
		for _, name := range i.names {
			repository := repositoryOf(name)
			if names[repository] == nil {
				names[repository] = map[string]string{}
			}
			names[repository][strings.TrimPrefix(name, repository+":")] = top
		}
	}
	return names
}

// tarSink is a tar. All its times are the beginning of time.
type tarSink struct{ w *tar.Writer }

func (s *tarSink) folder(name string) error {
	return s.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
}

func (s *tarSink) file(name string, size int64, write func(io.Writer) error) error {
	err := s.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)})
	if err != nil {
		return err
	}
	return write(struct{ io.Writer }{s.w}) // whose ReadFrom is for holes
}

// folderSink is a folder.
type folderSink string

func (s folderSink) folder(name string) error { return os.Mkdir(filepath.Join(string(s), name), 0o755) }

func (s folderSink) file(name string, _ int64, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(filepath.Join(string(s), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
