package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Before 1.10, Docker had images that were a chain: each layer had a config of its own, in <id>/json, that named the one below,
// and a name led to the topmost.

// oldLayer is such a config.
type oldLayer struct {
	Parent          string
	Created         *time.Time
	Author, Comment string
	OS              string
	Architecture    string
	Config          *configFileConfig
	ContainerConfig struct{ Cmd []string } `json:"container_config"`
}

// fromNames takes the images of such an archive, from its list of names: repository → tag → id.
func (in *loading) fromNames(ctx context.Context, a archive, text []byte) error {
	var names map[string]map[string]string
	if err := json.Unmarshal(text, &names); err != nil {
		return fmt.Errorf("read %s: %w", oldNames, err)
	}
	tags := map[string][]string{} // id → names
	var ids []string
	for repository, list := range names {
		for tag, id := range list {
			tags[id] = append(tags[id], repository+":"+tag)
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		slices.Sort(tags[id])
		if err := in.chained(ctx, a, id, tags[id]); err != nil {
			return fmt.Errorf("image %s: %w", tags[id][0], err)
		}
	}
	if len(ids) == 0 {
		return ErrNoImages
	}
	return nil
}

// chained makes an image as they are today of a chain.
func (in *loading) chained(ctx context.Context, a archive, id string, names []string) error {
	var layers []oldLayer // the topmost first
	l := listed{RepoTags: names}
	for id != "" {
		if len(layers) > maxLayers || strings.ContainsAny(id, "/.") {
			return fmt.Errorf("layer %q: %w", id, ErrContent)
		}
		text, err := readText(a, id+"/json", maxConfig)
		if err != nil {
			return err
		}
		var layer oldLayer
		if err := json.Unmarshal(text, &layer); err != nil {
			return fmt.Errorf("read %s/json: %w", id, err)
		}
		layers, l.Layers = append(layers, layer), append(l.Layers, id+"/layer.tar")
		id = layer.Parent
	}
	slices.Reverse(l.Layers)
	found := make([]ocispec.Descriptor, len(l.Layers))
	if err := in.describe(ctx, a, l.Layers, nil, found); err != nil {
		return err
	}
	top := layers[0]
	i := Image{Config: ocispec.Image{Created: top.Created, Author: top.Author}, Extra: Extra{Comment: top.Comment}}
	i.Config.OS, i.Config.Architecture = cmp.Or(top.OS, "linux"), cmp.Or(top.Architecture, "amd64")
	if c := top.Config; c != nil {
		i.Config.Config = c.ImageConfig
		i.Extra.Healthcheck, i.Extra.OnBuild, i.Extra.Shell = c.Healthcheck, c.OnBuild, c.Shell
	}
	i.Config.RootFS.Type = "layers"
	for n, layer := range slices.Backward(layers) {
		d := in.looseLayers[found[len(layers)-1-n].Digest]
		if d == nil {
			return fmt.Errorf("layer %s: %w", l.Layers[len(layers)-1-n], ErrContent)
		}
		i.Config.RootFS.DiffIDs = append(i.Config.RootFS.DiffIDs, d.DiffID)
		i.Config.History = append(i.Config.History, ocispec.History{
			Created: layer.Created, CreatedBy: strings.Join(layer.ContainerConfig.Cmd, " "), Author: layer.Author, Comment: layer.Comment,
		})
	}
	config, err := configText(i.Config, i.Extra)
	if err != nil {
		return err
	}
	return in.listed(ctx, a, l, config)
}
