package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// The texts of an archive.
const (
	dockerList  = "manifest.json" // Docker's, since 1.10: config, names and layers of each image
	oldNames    = "repositories"  // Docker's, before
	annotationC = "io.containerd.image.name"
)

// ErrNoImages is an archive in which there are none.
var ErrNoImages = errors.New("there are no images in it")

// Load takes all images of an archive, which is a tar as Docker, Podman or others write it, packed or not, in Docker's form or an
// OCI layout. A folder is one, too, if in is one. progress may be nil.
func (s *Store) Load(ctx context.Context, r io.Reader, progress func(Progress)) (list []*Image, err error) {
	in, err := s.beginLoading(ctx, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	a, closeArchive, err := in.openArchive(ctx, r)
	if err != nil {
		return nil, err
	}
	err = in.all(ctx, a)
	if err := errors.Join(err, closeArchive()); err != nil {
		return nil, err
	}
	return in.commit(ctx)
}

// openArchive finds out what r is.
func (in *loading) openArchive(ctx context.Context, r io.Reader) (a archive, done func() error, err error) {
	nothing := func() error { return nil }
	if f, ok := r.(*os.File); ok {
		st, err := f.Stat()
		switch {
		case err != nil:
			return nil, nil, err
		case st.IsDir():
			root, err := os.OpenRoot(f.Name())
			if err != nil {
				return nil, nil, err
			}
			return folderArchive{root}, root.Close, nil
		case st.Mode().IsRegular():
			head := make([]byte, tarBlock)
			n, err := f.ReadAt(head, 0)
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, nil, err
			}
			if n == tarBlock && !isPacked(head) {
				a, err := indexTar(f, f)
				return a, nothing, noArchive(err)
			}
		}
	}
	a, err = in.stream(ctx, r)
	return a, nothing, noArchive(err)
}

func noArchive(err error) error {
	if errors.Is(err, tar.ErrHeader) {
		return fmt.Errorf("this is no tar archive: %w", err)
	}
	return err
}

func isPacked(head []byte) bool {
	return slices.ContainsFunc(packings(), func(p packing) bool { return bytes.HasPrefix(head, []byte(p.magic)) })
}

// seen are the files of an archive that came through a pipe: texts, and layers that are in the change by now.
type seen struct {
	texts  map[string][]byte
	layers map[string]ocispec.Descriptor
	links  map[string]string
	size   int64 // of all texts
}

func (a *seen) find(name string) string {
	name = memberName(name)
	for range maxLinks {
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

func (a *seen) open(name string) (io.ReadCloser, int64, error) {
	if text, ok := a.texts[a.find(name)]; ok {
		return io.NopCloser(bytes.NewReader(text)), int64(len(text)), nil
	}
	return nil, 0, fmt.Errorf("%s is not in the archive: %w", name, fs.ErrNotExist)
}

// stream reads an archive from front to back.
func (in *loading) stream(ctx context.Context, r io.Reader) (*seen, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	raw := newPipe(ctx, r, nil, maxArchive)
	content, _, err := decompressed(ctx, raw)
	if err != nil {
		return nil, err
	}
	a := &seen{texts: map[string][]byte{}, layers: map[string]ocispec.Descriptor{}, links: map[string]string{}}
	end := &zeroCounter{Reader: content}
	t := tar.NewReader(end)
	for n := 0; ; n++ {
		if _, err := io.Copy(io.Discard, t); err != nil { // what nobody wanted to read
			return nil, err
		}
		end.zeros = 0 // now comes less than a block, which fills up the last one, and then a block
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if end.zeros < tarBlock {
				return nil, errCutOff
			}
			return a, drain(content, raw)
		}
		if err == nil && n > maxArchiveFiles {
			err = fmt.Errorf("more than %d files: %w", maxArchiveFiles, unix.EFBIG)
		}
		if err != nil {
			return nil, err
		}
		m, ok := memberOf(h)
		switch {
		case !ok:
		case m.link != "":
			a.links[memberName(h.Name)] = m.link
		default:
			if err := in.member(ctx, a, h, t); err != nil {
				return nil, fmt.Errorf("%s: %w", h.Name, err)
			}
		}
	}
}

// maxArchive is how much may be read from one.
const maxArchive = 1 << 40

// member takes what is of interest out of a stream.
func (in *loading) member(ctx context.Context, a *seen, h *tar.Header, content io.Reader) error {
	name := memberName(h.Name)
	buffered := bufio.NewReaderSize(content, 4096)
	head, err := buffered.Peek(tarBlock)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case looksLikeLayer(head):
		d := ocispec.Descriptor{MediaType: packingOf(head).mediaType, Digest: digestOf(name), Size: h.Size}
		if d.Digest != "" && in.has(d) { // what it holds, its manifest says
			err = nil
			in.tell(shortMember(name), Present, h.Size, h.Size)
		} else {
			d, err = in.loose(ctx, name, h.Size, buffered)
		}
		a.layers[name] = d
		return err
	case looksLikeText(head):
		if a.size += h.Size; h.Size > maxConfig || a.size > maxArchiveTexts {
			return fmt.Errorf("%d bytes of text: %w", a.size, unix.EFBIG)
		}
		a.texts[name], err = io.ReadAll(buffered)
		return err
	}
	return nil // whoever needs it will miss it
}

// digestOf is the digest that a file of a layout has in its name.
func digestOf(name string) digest.Digest {
	hex, ok := strings.CutPrefix(name, "blobs/sha256/")
	if d := digest.Digest("sha256:" + hex); ok && isDigest(d) {
		return d
	}
	return ""
}

// looseLayer is a layer that was unpacked before anybody knew to which image it belongs.
type looseLayer struct {
	ingested
	folder string
}

// loose reads such a layer.
func (in *loading) loose(ctx context.Context, name string, size int64, r io.Reader) (d ocispec.Descriptor, err error) {
	in.looseMu.Lock()
	d, known := in.looseNames[name]
	in.looseMu.Unlock()
	if known {
		return d, nil // several images have it
	}
	o := reading{keep: true, folder: in.c.newFolder(), want: expected{blob: digestOf(name), wrong: ErrContent}}
	if o.form, err = in.formOf(1); err != nil { // with its marks, as if it were not the lowest
		return d, err
	}
	counted := &progressReader{Reader: r, in: in, layer: shortMember(name), size: size}
	l, err := in.c.ingest(ctx, counted, o)
	if err != nil {
		return d, err
	}
	in.tell(shortMember(name), Received, size, size)
	in.looseMu.Lock()
	defer in.looseMu.Unlock()
	in.looseNames[name] = l.blob
	if in.looseLayers[l.blob.Digest] == nil {
		in.looseLayers[l.blob.Digest] = &looseLayer{l, o.folder}
	}
	return l.blob, nil
}

// shortMember is what a layer is called until its digest is known.
func shortMember(name string) string {
	base := path.Base(name)
	if base == "layer.tar" {
		base = path.Base(path.Dir(name))
	}
	return ShortID(strings.TrimSuffix(base, ".tar"))
}

// useLoose makes a layer that was read already layer n of an image, if it can be. What was the lowest and has marks is
// unpacked again, without.
func (in *loading) useLoose(n int, d ocispec.Descriptor, diff, chain digest.Digest) error {
	l := in.looseLayers[d.Digest]
	if l == nil {
		return nil
	}
	if err := (expected{diff: diff, size: d.Size, wrong: ErrContent}).check(l.ingested); err != nil {
		return fmt.Errorf("layer %s: %w", ShortID(string(d.Digest)), err)
	}
	if l.folder == "" || in.unpacked(chain) || n == 0 && l.Marks > 0 {
		return nil
	}
	in.chains[chain] = true
	in.c.layers = append(in.c.layers, &stagedLayer{path.Join(in.c.dir, l.folder), chain})
	l.folder = ""
	return nil
}

// all takes the images of an archive. Docker's later ones, and ours, have two lists of them: the layout's knows the manifests
// with their digests, and the older one what the images are called.
func (in *loading) all(ctx context.Context, a archive) error {
	list, err := readList(a)
	if err != nil {
		return err
	}
	index, err := readText(a, ocispec.ImageIndexFile, maxManifest)
	switch {
	case err == nil:
		return in.fromLayout(ctx, a, index, list)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case len(list) > 0:
		return in.fromList(ctx, a, list)
	}
	if old, err := readText(a, oldNames, maxConfig); err == nil {
		return in.fromNames(ctx, a, old)
	}
	return fmt.Errorf("it has neither %s nor %s: %w", ocispec.ImageIndexFile, dockerList, ErrNoImages)
}

// listed is an image in Docker's list.
type listed struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func readList(a archive) (list []listed, err error) {
	text, err := readText(a, dockerList, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dockerList, err)
	}
	return list, nil
}

// fromLayout takes the images of an OCI layout.
func (in *loading) fromLayout(ctx context.Context, a archive, text []byte, list []listed) error {
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("read %s: %w", ocispec.ImageIndexFile, err)
	}
	other := ErrNoImages
	for n, d := range index.Manifests {
		same := func(e ocispec.Descriptor) bool { return e.Digest == d.Digest }
		if slices.ContainsFunc(index.Manifests[:n], same) {
			continue // another name of it
		}
		src, err := readManifest(a, d, 0)
		if err != nil {
			return err
		}
		for _, e := range index.Manifests {
			if same(e) {
				src.Names = append(src.Names, layoutNames(e, src.config, list)...)
			}
		}
		src.Layer = func(_ context.Context, _ int, d ocispec.Descriptor) (io.ReadCloser, error) {
			f, _, err := a.open(blobName(d.Digest))
			return f, err
		}
		_, err = in.take(ctx, src.source)
		if errors.Is(err, errors.ErrUnsupported) { // signatures, charts and the like may lie beside images
			other = err
		} else if err != nil {
			return fmt.Errorf("image %s: %w", nameOr(src.Names, ShortID(string(d.Digest))), err)
		}
	}
	if len(in.images) == 0 {
		return other
	}
	return nil
}

// nameOr is what to call an image in an error.
func nameOr(names []string, id string) string {
	if len(names) == 0 {
		return id
	}
	if _, why := parseName(names[0]); why != "" {
		return strconv.Quote(names[0])
	}
	return names[0]
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

// layoutSource is an image of a layout.
type layoutSource struct {
	source
	config digest.Digest
}

// readManifest reads manifest and config. Of an image for several platforms it takes that for this one.
func readManifest(a archive, d ocispec.Descriptor, depth int) (src layoutSource, err error) {
	if !isDigest(d.Digest) {
		return src, fmt.Errorf("manifest %q: only SHA-256 is known: %w", d.Digest, errors.ErrUnsupported)
	}
	text, err := readBlob(a, d.Digest, maxManifest)
	if err != nil {
		return src, fmt.Errorf("manifest %s: %w", ShortID(string(d.Digest)), err)
	}
	var m struct {
		MediaType string
		Config    ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return src, fmt.Errorf("manifest %s: %w", ShortID(string(d.Digest)), err)
	}
	if m.Config.Digest == "" && (m.Manifests != nil || isList(d.MediaType)) {
		n, err := ofThisPlatform(m.Manifests)
		if err == nil && depth > 2 {
			err = errors.New("lists in lists in lists")
		}
		if err != nil {
			return src, fmt.Errorf("image %s: %w", ShortID(string(d.Digest)), err)
		}
		return readManifest(a, m.Manifests[n], depth+1)
	}
	if !isDigest(m.Config.Digest) {
		return src, fmt.Errorf("manifest %s: config %q: %w", ShortID(string(d.Digest)), m.Config.Digest, ErrContent)
	}
	config, err := readBlob(a, m.Config.Digest, maxConfig)
	if err != nil {
		return src, fmt.Errorf("config %s: %w", ShortID(string(m.Config.Digest)), err)
	}
	return layoutSource{source{Manifest: text, MediaType: d.MediaType, Config: config, Parallel: runtime.GOMAXPROCS(0)}, m.Config.Digest}, nil
}

func isList(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

func readBlob(a archive, d digest.Digest, limit int64) ([]byte, error) {
	text, err := readText(a, blobName(d), limit)
	if err == nil && digest.FromBytes(text) != d {
		err = ErrContent
	}
	return text, err
}

// ofThisPlatform chooses from a list.
func ofThisPlatform(list []ocispec.Descriptor) (int, error) {
	var others []string
	for n, d := range list {
		switch {
		case d.Platform == nil:
			if len(list) == 1 {
				return n, nil
			}
		case d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH:
			return n, nil
		case d.Platform.OS != "unknown": // which is what build tools call their notes
			others = append(others, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	if len(others) > 8 {
		others = append(others[:8], "…")
	}
	return 0, &PlatformError{Want: "linux/" + runtime.GOARCH, Has: others}
}

// layoutNames finds what an image of a layout is called: in Docker's list, or in the notes that containerd and others make.
func layoutNames(d ocispec.Descriptor, config digest.Digest, list []listed) (names []string) {
	for _, l := range list {
		if strings.TrimSuffix(path.Base(l.Config), ".json") == config.Encoded() {
			names = append(names, l.RepoTags...)
		}
	}
	for _, key := range []string{annotationC, annotationName} {
		if name := d.Annotations[key]; len(names) == 0 && name != "" {
			if _, why := parseName(name); why == "" { // OCI allows more than a name here
				names = append(names, name)
			}
		}
	}
	return names
}

// fromList takes the images of Docker's list. It has no manifests, so they are made.
func (in *loading) fromList(ctx context.Context, a archive, list []listed) error {
	for _, l := range list {
		config, err := readText(a, l.Config, maxConfig)
		if err == nil {
			err = in.listed(ctx, a, l, config)
		}
		if err != nil {
			return fmt.Errorf("image %s: %w", nameOr(l.RepoTags, strconv.Quote(ShortID(path.Base(l.Config)))), err)
		}
	}
	return nil
}

func (in *loading) listed(ctx context.Context, a archive, l listed, config []byte) error {
	var i Image
	i.manifest.Layers = make([]ocispec.Descriptor, len(l.Layers))
	if err := i.parseConfig(config); err != nil {
		return err
	}
	if err := in.describe(ctx, a, l.Layers, i.Config.RootFS.DiffIDs, i.manifest.Layers); err != nil {
		return err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: i.manifest.Layers,
	})
	if err != nil {
		return err
	}
	_, err = in.take(ctx, source{
		Manifest: manifest, Config: config, Names: l.RepoTags, Parallel: runtime.GOMAXPROCS(0),
		Layer: func(_ context.Context, n int, _ ocispec.Descriptor) (io.ReadCloser, error) {
			f, _, err := a.open(l.Layers[n])
			return f, err
		},
	})
	return err
}

// describe finds out what the layers of an archive are, as a manifest has it. Of one that is not packed the digest is known; any
// other is read.
func (in *loading) describe(ctx context.Context, a archive, names []string, diffs []digest.Digest, to []ocispec.Descriptor) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for n, name := range names {
		if s, ok := a.(*seen); ok {
			if to[n], ok = s.layers[s.find(name)]; !ok {
				return errors.Join(fmt.Errorf("layer %s is not in the archive: %w", name, fs.ErrNotExist), group.Wait())
			}
			continue
		}
		group.Go(func() error {
			f, size, err := a.open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			buffered := bufio.NewReaderSize(f, 4096)
			head, err := buffered.Peek(tarBlock)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			to[n] = ocispec.Descriptor{MediaType: packingOf(head).mediaType, Digest: digestOf(memberName(name)), Size: size}
			switch {
			case to[n].MediaType == ocispec.MediaTypeImageLayer && diffs != nil:
				to[n].Digest = diffs[n]
			case to[n].Digest == "":
				if to[n], err = in.loose(ctx, name, size, buffered); err != nil {
					return fmt.Errorf("layer %s: %w", name, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}
