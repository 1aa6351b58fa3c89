// Package image keeps images: what a container's root file system is made of, and how its program is started.
//
// The idea: an image is a list of layers and a small text, the config. A layer is a tar; it is known by its digest, the
// SHA-256 of its bytes, and so is the config, and so is the manifest that names them both. A name like "busybox:latest"
// is only a note that points to a manifest. So equal content is stored once, whatever it is called, and whoever has the
// digest can tell whether he was given the right thing.
//
// On disk it is an OCI image layout, which other tools can read, and beside it every layer unpacked, once, however many
// images and containers have it:
//
//	<root>/images/oci-layout
//	<root>/images/index.json             a descriptor for each name; an image without a name has one without
//	<root>/images/blobs/sha256/<hex>     manifests, configs, and layers as they came, compressed or not
//	<root>/images/.partial/<hex>         what has come of a layer that was interrupted, for the next try
//	<root>/layers/<chain-id>/diff        a layer unpacked, in the form that overlay mounts
//	<root>/layers/<chain-id>/aufs        the same in aufs's form, made when it is first asked for
//	<root>/layers/<chain-id>/layer.json  its size, and whether it takes anything away
//
// A chain id is a digest of a layer and all layers below it. Names stand in the annotation
// org.opencontainers.image.ref.name, short as Docker shows them, "busybox:latest": `skopeo copy oci:DIR:busybox:latest …`
// finds them. Our own annotations, io.nslab.*, spare looking into blobs and may be missing.
//
// The interface: [Open] a store; [Store.Resolve] a name; [Store.Layers] gives the folders to mount. [Store.Import],
// [Store.Bootstrap] and [Store.Commit] make images, [Store.Load], [Store.Save] and [Store.Receive] exchange them with others,
// [Store.Tag], [Store.Remove] and [Store.Prune] do what they say. [Store.Use] notes that a container needs an image.
//
// What is being made lies in a folder of its own until it is whole, and its blobs on the disk, and is then renamed; see settle.go
// for what becomes of a layer's files in a crash of the machine. That folder is locked by whoever works in it, and the kernel
// drops the lock when he is gone: so each change first removes what a killed one has left. index.json is written last, under the
// store's lock, so no name ever leads to something that is not there.
//
// The limits: only SHA-256. A layer is unpacked without a look at the layers below, as Docker does it. Whoever can write to
// the store can do anything; whoever made a layer can do nothing outside of it, see UnpackLayer of lab 04.
//
// See the OCI image specification: image-layout.md, manifest.md, config.md, layer.md.
package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/jsonfile"
)

// Image is an image of the store.
type Image struct {
	ID      string   // the digest of the config, "sha256:…": what people call the image's id
	Digest  string   // of the manifest
	Names   []string // "busybox:latest", sorted
	Digests []string // names by digest under which it was pulled: "busybox@sha256:…"
	Parent  string   // the id of the image that it was made from here, if any
	Tagged  time.Time
	Config  ocispec.Image
	Extra   Extra
	Size    int64 // of all files in all layers; only List and Measure fill it in

	// Lost counts what whoever made this image here could not unpack: see rootfs.Unpacked.
	Lost map[string]int

	// Replaced tells which images had names until this one was received: name → id.
	Replaced map[string]string

	manifest     ocispec.Manifest
	manifestSize int64
}

// Extra is what Docker keeps in a config beyond what OCI describes.
type Extra struct {
	Comment     string
	Healthcheck *Healthcheck
	OnBuild     []string
	Shell       []string
}

// Healthcheck is how to find out whether a container still works.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// configFile is a config as it is stored. The outer fields hide the embedded ones of the same name.
type configFile struct {
	ocispec.Image
	Comment string           `json:"comment,omitempty"`
	Config  configFileConfig `json:"config"`
}

type configFileConfig struct {
	ocispec.ImageConfig
	Healthcheck *Healthcheck `json:"Healthcheck,omitempty"`
	OnBuild     []string     `json:"OnBuild,omitempty"`
	Shell       []string     `json:"Shell,omitempty"`
}

func (i *Image) parseConfig(data []byte) error {
	var f configFile
	if err := jsonfile.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	i.Config = f.Image
	i.Config.Config = f.Config.ImageConfig
	i.Extra = Extra{f.Comment, f.Config.Healthcheck, f.Config.OnBuild, f.Config.Shell}
	if got, want := len(i.manifest.Layers), len(i.Config.RootFS.DiffIDs); got != want {
		return fmt.Errorf("the manifest has %d layers, the config %d: %w", got, want, ErrCorrupt)
	}
	for _, d := range i.Config.RootFS.DiffIDs {
		if !isDigest(d) {
			return fmt.Errorf("layer %q: %w", d, ErrCorrupt)
		}
	}
	return nil
}

// configText is the config as it is stored, the same bytes for the same image.
func configText(c ocispec.Image, e Extra) ([]byte, error) {
	f := configFile{Image: c, Comment: e.Comment, Config: configFileConfig{c.Config, e.Healthcheck, e.OnBuild, e.Shell}}
	return json.Marshal(f)
}

// Chain lists the chain ids of the layers, the lowest first.
func (i *Image) Chain() []digest.Digest { return chain(i.Config.RootFS.DiffIDs) }

// chain computes chain ids as config.md of the image specification defines them.
func chain(diffIDs []digest.Digest) []digest.Digest {
	ids := slices.Clone(diffIDs)
	for n := 1; n < len(ids); n++ {
		ids[n] = digest.FromString(string(ids[n-1]) + " " + string(ids[n]))
	}
	return ids
}

// Descriptor is that of the manifest.
func (i *Image) Descriptor() ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: i.manifest.MediaType, Digest: digest.Digest(i.Digest), Size: i.manifestSize}
	if d.MediaType == "" {
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	return d
}

// Descriptors are those of the layers, the lowest first.
func (i *Image) Descriptors() []ocispec.Descriptor { return slices.Clone(i.manifest.Layers) }
