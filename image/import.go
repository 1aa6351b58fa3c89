package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// ImportOptions are for [Store.Import].
type ImportOptions struct {
	Names    []string  // what the image is to be called; it may have no name
	Changes  []string  // lines of a Dockerfile: "CMD sh", `ENV A=b`
	Message  string    // the comment in the history
	Platform string    // "linux/arm64"; empty: this machine's
	Created  time.Time // zero: now
}

// Import makes an image of one layer, which is read from r: a tar, packed with gzip or zstd or not at all.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (*Image, error) {
	config := ocispec.Image{}
	var err error
	if config.Platform, err = ParsePlatform(o.Platform); err != nil {
		return nil, err
	}
	return s.add(ctx, nil, r, addOptions{
		names: o.Names, changes: o.Changes, created: o.Created, config: config,
		history: ocispec.History{Comment: o.Message}, extra: Extra{Comment: o.Message},
	})
}

// CommitOptions are for [Store.Commit].
type CommitOptions struct {
	Names     []string
	Changes   []string
	Config    *ocispec.ImageConfig // instead of the base's
	Author    string
	Message   string
	CreatedBy string // the command that made the layer
	Created   time.Time
}

// Commit makes an image of another, base, and one more layer, which layer writes as a tar. Without a layer only the config
// changes; without a base the layer is the first.
func (s *Store) Commit(ctx context.Context, base *Image, layer func(w io.Writer) error, o CommitOptions) (*Image, error) {
	a := addOptions{
		names: o.Names, changes: o.Changes, created: o.Created,
		history: ocispec.History{CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Message},
	}
	if base != nil {
		a.config, a.extra = base.Config, base.Extra
		a.config.RootFS.DiffIDs = slices.Clone(a.config.RootFS.DiffIDs)
		a.config.History = slices.Clone(a.config.History)
	} else {
		a.config.Platform, _ = ParsePlatform("")
	}
	if o.Config != nil {
		a.config.Config = *o.Config
	}
	if o.Author != "" {
		a.config.Author = o.Author
	}
	a.extra.Comment = o.Message
	if layer == nil {
		return s.add(ctx, base, nil, a)
	}
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := layer(w)
		w.CloseWithError(err) // the reader sees the writer's error, or the end
		wrote <- err
	}()
	i, err := s.add(ctx, base, r, a)
	r.CloseWithError(context.Canceled) // where storing fails first, the writer must not wait for ever
	if writeErr := <-wrote; err != nil && writeErr != nil && !errors.Is(writeErr, context.Canceled) {
		return nil, writeErr
	}
	return i, err
}

// addOptions describe a new image.
type addOptions struct {
	names, changes []string
	created        time.Time
	config         ocispec.Image
	extra          Extra
	history        ocispec.History
}

// add makes an image: base's layers, one more if r is one, and the config.
func (s *Store) add(ctx context.Context, base *Image, r io.Reader, o addOptions) (i *Image, err error) {
	names, err := tagNames(o.names)
	if err != nil {
		return nil, err
	}
	if err := applyChanges(&o.config.Config, &o.extra, o.changes); err != nil {
		return nil, err
	}
	if o.created.IsZero() {
		o.created = time.Now()
	}
	o.created = o.created.UTC()
	c, err := s.begin(ctx, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.abort()) }()
	i = &Image{Names: names, Config: o.config, Extra: o.extra}
	parent := ""
	if base != nil {
		i.manifest.Layers, parent = slices.Clone(base.manifest.Layers), base.ID
	}
	o.history.EmptyLayer = r == nil
	if r != nil {
		if err := c.addLayer(ctx, i, r); err != nil {
			return nil, err
		}
	}
	o.history.Created = &o.created
	i.Config.Created, i.Config.RootFS.Type = &o.created, "layers"
	i.Config.History = append(i.Config.History, o.history)
	d, err := c.addManifest(i)
	if err != nil {
		return nil, err
	}
	i.Parent, i.Tagged = parent, time.Now()
	err = c.commit(func(idx *ocispec.Index) error {
		if base == nil {
			base = &Image{}
		}
		for _, l := range base.manifest.Layers { // base may have been removed meanwhile
			if _, err := os.Lstat(s.blobPath(l.Digest)); err != nil {
				return fmt.Errorf("layer %s of %s: %w", ShortID(string(l.Digest)), ShortID(parent), err)
			}
		}
		addNames(idx, d, i.ID, parent, names, i.Tagged)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return i, s.Measure(i)
}

// addLayer puts one more layer on an image that is being made.
func (c *change) addLayer(ctx context.Context, i *Image, r io.Reader) error {
	form := noMarks
	if len(i.manifest.Layers) > 0 {
		var err error
		if form, err = unionfs.FormFor(c.dir); err != nil {
			return err
		}
	}
	in, err := c.ingest(ctx, r, reading{keep: true, folder: "layer", form: form})
	if err != nil {
		return err
	}
	i.Lost = in.lost
	i.manifest.Layers = append(i.manifest.Layers, in.blob)
	i.Config.RootFS.DiffIDs = append(i.Config.RootFS.DiffIDs, in.DiffID)
	ids := i.Chain()
	c.layers = append(c.layers, &stagedLayer{filepath.Join(c.dir, "layer"), ids[len(ids)-1]})
	return nil
}

// addManifest stages the config and the manifest of an image, which gives it its id.
func (c *change) addManifest(i *Image) (ocispec.Descriptor, error) {
	text, err := configText(i.Config, i.Extra)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := c.stageBlob(ocispec.MediaTypeImageConfig, text)
	if err != nil {
		return config, err
	}
	i.manifest.Versioned, i.manifest.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	i.manifest.Config = config
	if i.manifest.Layers == nil {
		i.manifest.Layers = []ocispec.Descriptor{}
	}
	if text, err = json.Marshal(i.manifest); err != nil {
		return config, err
	}
	d, err := c.stageBlob(ocispec.MediaTypeImageManifest, text)
	i.ID, i.Digest, i.manifestSize = string(config.Digest), string(d.Digest), d.Size
	return d, err
}

// tagNames reads the names that an image is to have. A name by digest cannot be given: it is what it is.
func tagNames(refs []string) ([]string, error) {
	var names []string
	for _, ref := range refs {
		n, err := ParseName(ref)
		if err != nil {
			return nil, err
		}
		if n.Digest != "" {
			return nil, &ReferenceError{ref, "refusing to create a tag with a digest reference"}
		}
		names = append(names, n.String())
	}
	return names, nil
}

// Tag gives an image one more name. An image that had it loses it.
func (s *Store) Tag(i *Image, ref string) error {
	names, err := tagNames([]string{ref})
	if err != nil {
		return err
	}
	return s.change(func(idx *ocispec.Index) error {
		n := slices.IndexFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return s.id(d) == i.ID })
		if n < 0 {
			return &NotFoundError{i.ID}
		}
		addNames(idx, ocispec.Descriptor{
			MediaType: idx.Manifests[n].MediaType, Digest: idx.Manifests[n].Digest, Size: idx.Manifests[n].Size,
			Platform: idx.Manifests[n].Platform,
		}, i.ID, i.Parent, names, time.Now())
		return nil
	})
}

// architectures are those that Linux images are made for, by Go's names and by others that people use.
func architectures() []string {
	return []string{
		"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x",
		"x86_64", "x86-64", "aarch64", "i386", "armhf", "armel",
	}
}

// ParsePlatform reads "os/arch/variant". Without anything it is this machine's.
func ParsePlatform(text string) (p ocispec.Platform, err error) {
	p = ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if text == "" {
		return p, nil
	}
	parts := strings.Split(strings.ToLower(text), "/")
	known := func(s string) bool {
		return s != "" && isAlnum(s[0]) && all(s, func(c byte) bool { return isAlnum(c) || strings.IndexByte("_-.", c) >= 0 })
	}
	if len(parts) > 3 || slices.ContainsFunc(parts, func(s string) bool { return !known(s) }) {
		return p, fmt.Errorf("platform %q: it is written OS/ARCHITECTURE, as in linux/arm64", text)
	}
	if len(parts) == 1 && parts[0] != "linux" {
		if !slices.Contains(architectures(), parts[0]) {
			return p, fmt.Errorf("platform %q: neither a system nor an architecture is called that", text)
		}
		parts = []string{"linux", parts[0]}
	}
	if parts[0] != "linux" {
		return p, fmt.Errorf("platform %q: only linux runs on this kernel", text)
	}
	if len(parts) > 1 {
		p.Architecture = parts[1]
		if name, ok := map[string]string{"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}[parts[1]]; ok {
			p.Architecture = name
		}
	}
	if len(parts) > 2 {
		p.Variant = parts[2]
	}
	return p, nil
}
