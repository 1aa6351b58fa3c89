package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

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
