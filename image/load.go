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

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
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
