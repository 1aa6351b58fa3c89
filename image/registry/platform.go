package registry

import (
	"encoding/json"
	"fmt"
	"mime"
	"path"
	"runtime"
	"slices"
	"strings"

	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/image"
)

// PlatformError is an image that is not there for the platform that is wanted.
type PlatformError struct {
	Want string
	Have []string // for which it is there
}

func (e *PlatformError) Error() string {
	have := "nothing that runs on Linux"
	if len(e.Have) > 0 {
		have = strings.Join(e.Have, ", ")
	}
	return fmt.Sprintf("the image is not for %s, but for %s", e.Want, short(have))
}

// Is makes it [ErrPlatform].
func (e *PlatformError) Is(target error) bool { return target == ErrPlatform }

// kindOf says what a manifest is. What a server says of it counts where that is exact; many say nothing, or "text/plain".
func kindOf(data []byte, contentType string) (string, error) {
	var m struct {
		specs.Versioned
		MediaType string            `json:"mediaType"`
		Config    *json.RawMessage  `json:"config"`
		Layers    []json.RawMessage `json:"layers"`
		Manifests []json.RawMessage `json:"manifests"`
		FSLayers  []json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("the manifest cannot be read: %w: %w", err, ErrNoImage)
	}
	said, _, _ := mime.ParseMediaType(contentType)
	switch {
	case m.SchemaVersion == 1 || m.FSLayers != nil || strings.HasPrefix(said, "application/vnd.docker.distribution.manifest.v1"):
		return "", fmt.Errorf("it has a manifest of schema 1, which says nothing of what is in the layers: %w", ErrNoImage)
	case m.Manifests != nil && (m.Layers != nil || m.Config != nil):
		// The same bytes would be one image for one reader, and another for the next (CVE-2021-41190).
		return "", fmt.Errorf("the manifest is an index and an image at the same time: %w", ErrNoImage)
	}
	index := m.Manifests != nil
	for _, t := range []string{m.MediaType, said} {
		switch t {
		case ocispec.MediaTypeImageIndex, dockerList:
			if index {
				return t, nil
			}
		case ocispec.MediaTypeImageManifest, dockerManifest:
			if !index {
				return t, nil
			}
		}
	}
	switch {
	case index:
		return ocispec.MediaTypeImageIndex, nil
	case m.Config != nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", fmt.Errorf("the manifest is of the type %.100q: %w", m.MediaType, ErrNoImage)
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList
}

// choose picks from an index the manifest for a platform.
func choose(data []byte, want ocispec.Platform) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("the index cannot be read: %w: %w", err, ErrNoImage)
	}
	best, bestScore := -1, 0
	var have []string
	for n, d := range index.Manifests {
		if d.Platform == nil { // a list that does not say; it may be of one image
			d.Platform = &ocispec.Platform{}
			if len(index.Manifests) == 1 {
				*d.Platform = want
			}
		}
		if s := score(*d.Platform, want); s > bestScore {
			best, bestScore = n, s
		}
		// "unknown/unknown" are statements about an image, which buildkit puts beside it.
		if text := platformText(*d.Platform); text != "" && d.Platform.OS != "unknown" && !slices.Contains(have, text) {
			have = append(have, text)
		}
	}
	if best < 0 {
		slices.Sort(have)
		return ocispec.Descriptor{}, &PlatformError{platformText(want), have}
	}
	return index.Manifests[best], nil
}

// score says how well a platform fits; 0: not at all. A processor runs what was made for an older one of its kind.
func score(has, want ocispec.Platform) int {
	has, want = normal(has), normal(want)
	if has.OS != want.OS || has.Architecture != want.Architecture {
		return 0
	}
	if has.Variant == want.Variant {
		return 100
	}
	if !runsOlder(want.Architecture) || has.Variant > want.Variant {
		return 0
	}
	return 100 - int(want.Variant[1]-has.Variant[1])
}

func runsOlder(arch string) bool { return arch == "arm" || arch == "amd64" || arch == "arm64" }

// normal gives a platform the names that most use, and the variant that is meant by none.
func normal(p ocispec.Platform) ocispec.Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	known := func(variants, otherwise string) {
		if len(p.Variant) != 2 || !strings.Contains(variants, p.Variant) {
			p.Variant = otherwise
		}
	}
	switch p.Architecture {
	case "arm":
		known("v5v6v7v8", "v7")
	case "amd64":
		known("v1v2v3v4", "v1")
	case "arm64":
		known("v8v9", "v8")
	}
	return p
}

func platformText(p ocispec.Platform) string { return path.Join(p.OS, p.Architecture, p.Variant) }

// checkPlatform refuses an image for another platform. Some say nothing.
func checkPlatform(i *image.Image, want ocispec.Platform) error {
	has := i.Config.Platform
	if has.OS == "" {
		has.OS = "linux"
	}
	if has.Architecture == "" || has.OS == want.OS && has.Architecture == want.Architecture || score(has, want) > 0 {
		return nil
	}
	return &PlatformError{platformText(want), []string{platformText(has)}}
}

// here is this machine's platform.
func here() ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH} }
