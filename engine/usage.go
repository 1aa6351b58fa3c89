package engine

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	volumes "github.com/nslab/nslab/labs/07-volumes"

	"github.com/nslab/nslab/image"
)

// Usage is what takes room on the disk.
type Usage struct {
	Images     []ImageUsage
	Containers []ContainerUsage
	Volumes    []VolumeUsage
	Cache      []image.CacheEntry // of builds

	Layers     int64 // all layers of images, those that several have counted once
	LayersUsed int64 // those of them that containers need
}

// ImageUsage is an image, and how much of it is only its own.
type ImageUsage struct {
	*image.Image
	Unique     int64 // of Image.Size
	Containers int
}

// ContainerUsage is a container and what it has written.
type ContainerUsage struct {
	*Container
	Size int64
}

// VolumeUsage is a volume, what is in it, and how many containers have it.
type VolumeUsage struct {
	*volumes.Volume
	Size int64
}

// Usage measures everything. What cannot be read is in the error, beside the rest.
func (e *Engine) Usage(ctx context.Context) (*Usage, error) {
	u := &Usage{}
	containers, err := e.List(ctx)
	errs := []error{err}
	for _, c := range containers {
		size, err := treeSize(c.path(upperLayer))
		u.Containers, errs = append(u.Containers, ContainerUsage{c, size}), append(errs, err)
	}
	errs = append(errs, u.images(e, containers))
	list, err := e.ListVolumes()
	errs = append(errs, err)
	for _, v := range list {
		size, err := VolumeSize(v)
		u.Volumes, errs = append(u.Volumes, VolumeUsage{v, size}), append(errs, err)
	}
	u.Cache, err = e.images.CacheEntries()
	return u, errors.Join(append(errs, err)...)
}

// images measures images by their layers.
func (u *Usage) images(e *Engine, containers []*Container) error {
	list, err := e.images.List()
	errs := []error{err}
	sizes, holders := map[digest.Digest]int64{}, map[digest.Digest]int{}
	count := func(i *image.Image) []digest.Digest {
		chain := i.Chain()
		layers, err := e.images.Sizes(i)
		if errs = append(errs, err); err != nil {
			return nil
		}
		for n, id := range chain {
			sizes[id] = layers[n]
		}
		return chain
	}
	chains := make([][]digest.Digest, len(list))
	for n, i := range list {
		chains[n] = count(i)
		for _, id := range chains[n] {
			holders[id]++
		}
	}
	users, used := map[string]int{}, map[digest.Digest]bool{}
	for _, c := range containers {
		if users[c.Image]++; users[c.Image] > 1 {
			continue
		}
		i, err := e.images.Held(c.Image, c.ID)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, id := range count(i) {
			used[id] = true
		}
	}
	for n, i := range list {
		usage := ImageUsage{Image: i, Containers: users[i.ID]}
		for _, id := range chains[n] {
			if holders[id] == 1 {
				usage.Unique += sizes[id]
			}
		}
		u.Images = append(u.Images, usage)
	}
	for id, size := range sizes {
		u.Layers += size
		if used[id] {
			u.LayersUsed += size
		}
	}
	return errors.Join(errs...)
}
