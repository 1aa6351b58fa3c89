package engine

import (
	"context"
	"path"
	"slices"
	"strings"

	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// findInherited finds the volumes and binds of the containers that --volumes-from names: what they have now, at the same places.
// Nothing of it is written by the user's hand, so nothing conflicts: what is said later, or by -v and --mount, takes the place.
func (c *Container) findInherited(ctx context.Context) error {
	for _, spec := range c.HostConfig.VolumesFrom {
		ref, mode, _ := strings.Cut(spec, ":")
		donor, err := c.engine.Get(ctx, ref)
		if err != nil {
			return err
		}
		for _, p := range donor.Mounts {
			m := volumes.Mount{
				Type: p.Type, Source: p.Source, Target: p.Destination, ReadOnly: !p.RW || mode == "ro", Propagation: p.Propagation,
				NoCopy: true, // what the image has there went into it when it was made, or was not to
			}
			switch p.Type {
			case volumes.TypeTmpfs:
				continue // its memory is one container's
			case volumes.TypeVolume:
				m.Source = p.Name
			}
			same := func(o volumes.Mount) bool { return o.Target == m.Target }
			c.inherited = append(slices.DeleteFunc(c.inherited, same), m)
		}
	}
	return nil
}

// mountsWithInherited are the user's mounts, and those that are inherited and in nobody's way.
func (c *Container) mountsWithInherited() []volumes.Mount {
	list := slices.Clone(c.HostConfig.Mounts)
	for _, m := range c.inherited {
		same := func(o volumes.Mount) bool { return path.Clean(o.Target) == m.Target }
		if _, tmpfs := c.HostConfig.Tmpfs[m.Target]; !tmpfs && !slices.ContainsFunc(c.HostConfig.Mounts, same) {
			list = append(list, m)
		}
	}
	return list
}
