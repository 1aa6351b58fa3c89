package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/image"
)

// containerKeys are the filters of `container ls`: Docker's.
var containerKeys = []string{
	"ancestor", "before", "exited", "expose", "health", "id", "isolation", "is-task", "label", "name", "network", "publish",
	"since", "status", "volume",
}

// containerFilter decides which containers are listed.
type containerFilter struct {
	*filter.Filters
	exited         []int
	tasks          bool // those of a swarm, which nslab has none of
	before, since  *engine.Container
	expose, public []portRange
	ancestors      []*image.Image
	images         *imageNames
	engine         *engine.Engine
}

// newContainerFilter checks what was asked for. list is all containers, the newest first.
func newContainerFilter(e *engine.Engine, f *filter.Filters, list []*engine.Container) (*containerFilter, error) {
	if err := f.Check(containerKeys...); err != nil {
		return nil, err
	}
	if err := f.OneOf("status", "created", "running", "paused", "restarting", "removing", "exited", "dead"); err != nil {
		return nil, err
	}
	if err := f.OneOf("health", "none", "starting", "healthy", "unhealthy"); err != nil {
		return nil, err
	}
	c := &containerFilter{Filters: f, engine: e, images: &imageNames{store: e.Images(), found: map[string]*image.Image{}}}
	var err error
	if c.tasks, err = f.Bool("is-task", false); err != nil {
		return nil, err
	}
	for _, text := range f.Get("exited") {
		code, err := strconv.Atoi(text)
		if err != nil {
			return nil, &filter.Error{Key: "exited", Values: []string{text}, Err: errors.New("an exit status is a number")}
		}
		c.exited = append(c.exited, code)
	}
	if c.expose, err = portRanges(f, "expose"); err != nil {
		return nil, err
	}
	if c.public, err = portRanges(f, "publish"); err != nil {
		return nil, err
	}
	for _, name := range f.Get("ancestor") {
		if img := c.images.resolve(name); img != nil {
			c.ancestors = append(c.ancestors, img)
		}
	}
	if c.before, err = filterContainer(f, "before", list); err != nil {
		return nil, err
	}
	c.since, err = filterContainer(f, "since", list)
	return c, err
}

// filterContainer is the container that a filter names. Of several, the last counts.
func filterContainer(f *filter.Filters, key string, list []*engine.Container) (found *engine.Container, err error) {
	for _, ref := range f.Get(key) {
		is := func(c *engine.Container) bool {
			return c.Name == strings.TrimPrefix(ref, "/") || strings.HasPrefix(c.ID, ref)
		}
		i := slices.IndexFunc(list, is)
		if i < 0 {
			return nil, &engine.NotFoundError{Ref: ref}
		}
		found = list[i]
	}
	return found, nil
}

// match says whether a container is wanted: by all of the filters.
func (f *containerFilter) match(c *engine.Container) bool {
	return f.Prefix("id", c.ID) &&
		(f.Match("name", c.Name) || f.Match("name", "/"+c.Name)) &&
		f.Labels("label", c.Config.Labels) &&
		f.Exact("status", string(c.State.Status)) &&
		f.Exact("health", "none") &&
		f.network(c) &&
		!f.tasks && !f.Has("isolation") &&
		(f.exited == nil || c.State.Status == engine.Exited && slices.Contains(f.exited, c.State.ExitCode)) &&
		(f.before == nil || c.Created.Before(f.before.Created)) &&
		(f.since == nil || c.Created.After(f.since.Created)) &&
		(!f.Has("volume") || slices.ContainsFunc(c.Mounts, f.volume)) &&
		(!f.Has("ancestor") || f.ancestor(c)) &&
		(f.expose == nil || exposes(c, f.expose)) &&
		(f.public == nil || publishes(c, f.public))
}

// network wants a network that the container is connected to, by its name or its id.
func (f *containerFilter) network(c *engine.Container) bool {
	if !f.Has("network") {
		return true
	}
	for name := range strings.SplitSeq(networksOf(c), ",") {
		if f.Exact("network", name) {
			return true
		}
		if n, err := f.engine.Network(name); err == nil && f.Prefix("network", n.ID) {
			return true
		}
	}
	return false
}

// publishes wants a port of this machine that leads to the container.
func publishes(c *engine.Container, wanted []portRange) bool {
	b := c.Sandbox()
	return b != nil && slices.ContainsFunc(b.Ports, func(p network.Published) bool {
		return slices.ContainsFunc(wanted, func(w portRange) bool {
			n := uint64(p.Host.Port())
			return w.proto == p.Proto && w.first <= n && n <= w.last
		})
	})
}

// volume wants a mount by its name, its source or its place.
func (f *containerFilter) volume(m engine.MountPoint) bool {
	source := m.Name
	if source == "" {
		source = m.Source
	}
	return f.Exact("volume", source) || f.Exact("volume", m.Destination)
}

// ancestor wants the container's image, or one that it was built on.
func (f *containerFilter) ancestor(c *engine.Container) bool {
	if f.Exact("ancestor", c.Config.Image) || f.Exact("ancestor", c.Image) {
		return true
	}
	img := f.images.resolve(c.Image)
	return img != nil && slices.ContainsFunc(f.ancestors, func(a *image.Image) bool { return builtOn(img, a) })
}

// builtOn says whether an image begins with all the layers and all the steps of another.
func builtOn(img, base *image.Image) bool {
	if img.ID == base.ID {
		return true
	}
	layers, steps := base.Config.RootFS.DiffIDs, base.Config.History
	if len(layers) > len(img.Config.RootFS.DiffIDs) || len(steps) >= len(img.Config.History) {
		return false
	}
	if !slices.Equal(layers, img.Config.RootFS.DiffIDs[:len(layers)]) {
		return false
	}
	for i, step := range steps {
		if step.CreatedBy != img.Config.History[i].CreatedBy {
			return false
		}
	}
	return true
}

// imageNames looks images up, each name once.
type imageNames struct {
	store *image.Store
	found map[string]*image.Image
}

// resolve returns nil for an image that is not there.
func (n *imageNames) resolve(name string) *image.Image {
	img, known := n.found[name]
	if !known {
		img, _ = n.store.Resolve(name)
		n.found[name] = img
	}
	return img
}

// shown is what to call the image of a container: as the user did, unless that means another one by now.
func (n *imageNames) shown(c *engine.Container) string {
	if img := n.resolve(c.Config.Image); img == nil || img.ID != c.Image {
		return c.Image
	}
	return c.Config.Image
}

// portRange is what --filter expose and publish take: 80, 80/udp, 8000-8080.
type portRange struct {
	first, last uint64
	proto       string
}

func portRanges(f *filter.Filters, key string) (list []portRange, err error) {
	for _, text := range f.Get(key) {
		p, err := parsePorts(text)
		if err != nil {
			return nil, &filter.Error{Key: key, Values: []string{text}, Err: err}
		}
		list = append(list, p)
	}
	return list, nil
}

func parsePorts(text string) (p portRange, err error) {
	ports, proto, has := strings.Cut(text, "/")
	if p.proto = strings.ToLower(proto); !has {
		p.proto = "tcp"
	}
	first, last, ranged := strings.Cut(ports, "-")
	if !ranged {
		last = first
	}
	var err1, err2 error
	p.first, err1 = strconv.ParseUint(first, 10, 16)
	p.last, err2 = strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || p.first > p.last || !slices.Contains([]string{"tcp", "udp", "sctp"}, p.proto) {
		return p, fmt.Errorf("a port looks like 80, 80/udp or 8000-8080/tcp")
	}
	return p, nil
}

// exposes says whether a container names one of these ports as its own.
func exposes(c *engine.Container, wanted []portRange) bool {
	for text := range c.Config.ExposedPorts {
		p, err := parsePorts(text)
		if err != nil {
			continue
		}
		for _, w := range wanted {
			if w.proto == p.proto && w.first <= p.last && p.first <= w.last {
				return true
			}
		}
	}
	return false
}
