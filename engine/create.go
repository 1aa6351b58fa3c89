package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	volumes "github.com/nslab/nslab/labs/07-volumes"
	security "github.com/nslab/nslab/labs/10-security"

	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/jsonfile"
)

// CreateOptions is what a new container is to be.
type CreateOptions struct {
	Name       string // a random one if empty
	Config     Config
	HostConfig HostConfig
	Networks   []EndpointOptions // more than HostConfig.NetworkMode says: addresses, aliases, several

	// It is to be started right away, with these options: what can be done for that is done meanwhile.
	Run *StartOptions
}

// Create makes a container that can be started. All or nothing: what the user asked for is checked before anything is made,
// and a failure takes away what was made until then. The container is locked for the caller, who closes it.
func (e *Engine) Create(ctx context.Context, o CreateOptions) (c *Container, err error) {
	c = &Container{engine: e, Record: Record{Created: time.Now().UTC(), Config: o.Config, HostConfig: o.HostConfig, Name: o.Name}}
	// Its init needs nothing of the image in order to start up. Only those that would take something which others might want, an
	// address or a port, wait until it is certain that the image is there.
	early := o.Run != nil && (o.HostConfig.NetworkMode == network.None || o.HostConfig.NetworkMode == network.Host)
	if !early {
		o.Run.begun()
		if err := c.findImage(); err != nil {
			return nil, err
		}
	}
	if c.ID, err = newID(); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.findInherited(ctx); err != nil {
		return nil, err
	}
	if err := c.checkNetworks(o.Networks); err != nil {
		return nil, err
	}
	if err := c.findNames(ctx); err != nil {
		return nil, err
	}
	if !early {
		if err := e.reapAll(ctx); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.discard(context.WithoutCancel(ctx)), c.Close())
			c = nil
		}
	}()
	if err := c.lockNew(ctx); err != nil {
		return c, err
	}
	if o.Run != nil {
		if err := c.launch(ctx, *o.Run); err != nil {
			return c, err
		}
		o.Run.begun()
	}
	if early {
		if err := c.findImage(); err != nil {
			return c, err
		}
		if err := e.reapAll(ctx); err != nil {
			return c, err
		}
	}
	// The folder comes before all else: while there is one without a record whose lock is free, its maker was killed, and
	// the next command takes back what has the container's id on it. The record comes last.
	for _, make := range []func(context.Context) error{
		c.makeFolders, c.takeName, c.useImage, c.makeVolumes, c.writeInitLayer,
	} {
		if err := make(ctx); err != nil {
			return c, err
		}
	}
	c.State = State{Status: Created}
	return c, c.save()
}

// findImage finds the image, and completes with it what was asked for.
func (c *Container) findImage() (err error) {
	if c.image, err = c.engine.images.Resolve(c.Config.Image); err != nil {
		return err
	}
	c.Image, c.Platform = c.image.ID, c.image.Config.OS
	if err := c.Config.complete(c.image.Config.Config); err != nil {
		return err
	}
	argv := c.Config.argv()
	c.Path, c.Args = argv[0], argv[1:]
	if _, err := c.Config.stopSignal(); err != nil {
		return err
	}
	if err := checkText("user", c.Config.User); err != nil {
		return err
	}
	return checkPlatform(c.HostConfig.Platform, c.image)
}

// check completes what was asked for, as far as the image has nothing to do with it, and refuses what cannot be.
func (c *Container) check() error {
	h := &c.HostConfig
	if c.Name != "" {
		if err := CheckName(c.Name); err != nil {
			return err
		}
	}
	for what, text := range map[string]string{"hostname": c.Config.Hostname, "domain name": c.Config.Domainname} {
		if err := checkText(what, text); err != nil {
			return err
		}
	}
	h.defaults()
	c.Driver = unionfs.Driver(h.Driver)
	if !slices.Contains([]unionfs.Driver{unionfs.Overlay, unionfs.Aufs, unionfs.AufsFUSE}, c.Driver) {
		return &InputError{What: "driver", Value: h.Driver, Err: unionfs.ErrUnknownDriver}
	}
	if err := h.check(); err != nil {
		return err
	}
	return volumes.Check(h.Mounts)
}

// checkPlatform refuses an image that is for another platform than was asked for: os[/architecture[/variant]].
func checkPlatform(want string, img *image.Image) error {
	has := path.Join(img.Config.OS, img.Config.Architecture, img.Config.Variant)
	if want == "" || has == want || strings.HasPrefix(has, want+"/") {
		return nil
	}
	return &InputError{What: "platform", Value: want, Err: fmt.Errorf("the image is for %s", has)}
}

// defaults fills in what is Docker's where the user says nothing.
func (h *HostConfig) defaults() {
	set := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	set(&h.IpcMode, "private")
	set(&h.CgroupnsMode, "private")
	set(&h.LogConfig.Type, "json-file")
	set(&h.RestartPolicy.Name, "no")
	set(&h.Driver, string(unionfs.Overlay))
	if h.Privileged {
		return
	}
	if v, _ := h.securityOption("systempaths"); v == "unconfined" {
		return
	}
	if h.MaskedPaths == nil {
		h.MaskedPaths = security.MaskedPaths()
	}
	if h.ReadonlyPaths == nil {
		h.ReadonlyPaths = security.ReadonlyPaths()
	}
}

// check refuses what would fail at the start, where it can be known before.
func (h *HostConfig) check() error {
	if _, err := security.Capabilities(h.CapAdd, h.CapDrop, h.Privileged); err != nil {
		return &InputError{What: "capability", Err: err}
	}
	if h.UsernsMode == "host" && os.Geteuid() != 0 {
		return &InputError{What: "user namespace", Value: h.UsernsMode, Err: errors.New("only root's containers can do without one of their own")}
	}
	if p := h.CgroupParent; strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }) || slices.Contains(strings.Split(p, "/"), "..") {
		return &InputError{What: "cgroup parent", Value: p, Err: errors.New("it leads elsewhere")}
	}
	for _, d := range h.Devices {
		if _, err := devicesAt(d); err != nil {
			return err
		}
	}
	for _, r := range h.DeviceCgroupRules {
		if _, err := parseDeviceRule(r); err != nil {
			return err
		}
	}
	if _, err := h.Resources.spec(); err != nil {
		return err
	}
	for _, m := range h.Mounts {
		if m.Type != volumes.TypeBind {
			continue
		}
		if _, err := os.Stat(m.Source); err != nil && !(m.Make && errors.Is(err, fs.ErrNotExist)) {
			return &InputError{What: "mount", Value: m.Source, Err: fmt.Errorf("bind source path: %w", jsonfile.Cause(err))}
		}
	}
	return nil
}

// lockNew takes the lock of a container, and makes it where it is missing. Somebody may remove the folder meanwhile: an empty
// one is nobody's yet. A lock counts only if it is the one that others find under its name.
func (c *Container) lockNew(ctx context.Context) (err error) {
	name := filepath.Join(c.RunDir(), "lock")
	for range 100 {
		if err := os.MkdirAll(c.RunDir(), 0o700); err != nil {
			return fmt.Errorf("make %s: %w", c.RunDir(), jsonfile.Cause(err))
		}
		c.lock, err = lockFile(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		ours, err := c.lock.Stat()
		if now, statErr := os.Stat(name); err == nil && statErr == nil && os.SameFile(ours, now) {
			c.noteRoot()
			return nil
		}
		c.lock.Close()
		c.lock = nil
	}
	return fmt.Errorf("take the lock %s: somebody removes it all the time", name)
}

func (c *Container) makeFolders(context.Context) error {
	if err := os.MkdirAll(c.engine.containersDir(), 0o711); err != nil {
		return fmt.Errorf("make %s: %w", c.engine.containersDir(), jsonfile.Cause(err))
	}
	for _, d := range []string{"", initLayer, upperLayer, workFolder, rootFolder} {
		mode := fs.FileMode(0o755)
		if d == "" {
			mode = 0o710 // users of a user namespace pass through
		}
		if err := os.Mkdir(c.path(d), mode); err != nil {
			return fmt.Errorf("make %s: %w", c.path(d), jsonfile.Cause(err))
		}
	}
	return nil
}

func (c *Container) takeName(context.Context) (err error) {
	if c.Name == "" {
		c.Name, err = c.engine.claimAny(c.ID)
		return err
	}
	return c.engine.claim(c.Name, c.ID)
}

// useImage notes that the container needs the image, and finds its layers: from now on they stay.
func (c *Container) useImage(ctx context.Context) (err error) {
	if err := c.engine.images.Use(c.Image, c.ID); err != nil {
		return err
	}
	c.lower, err = c.engine.images.Layers(ctx, c.image, c.Driver)
	return err
}

// makeVolumes makes the volumes that are asked for, by the user or by the image, and fills new ones with the image's files.
func (c *Container) makeVolumes(ctx context.Context) error {
	list := c.mountsWithInherited()
	for _, target := range slices.Sorted(maps.Keys(c.Config.Volumes)) { // the user's and the image's, without a name
		taken := func(m volumes.Mount) bool { return path.Clean(m.Target) == path.Clean(target) }
		if _, tmpfs := c.HostConfig.Tmpfs[target]; !slices.ContainsFunc(list, taken) && !tmpfs {
			list = append(list, volumes.Mount{Type: volumes.TypeVolume, Target: target})
		}
	}
	var fill []volumes.Mount
	for _, m := range list {
		p := MountPoint{
			Type: m.Type, Source: m.Source, Destination: path.Clean(m.Target), RW: !m.ReadOnly, Propagation: m.Propagation, Mode: mountMode(m),
		}
		switch m.Type {
		case volumes.TypeBind:
			if p.Propagation == "" {
				p.Propagation = "rprivate"
			}
			if err := errors.Join(makeBindSource(m), checkPropagation(m)); err != nil {
				return err
			}
		case volumes.TypeVolume:
			v, err := c.makeVolume(m)
			if err != nil {
				return err
			}
			p.Name, p.Source, p.Driver, p.Anonymous = v.Name, v.Mountpoint(), "local", v.Anonymous
			if !m.NoCopy {
				m.Source = v.Name
				fill = append(fill, m)
			}
		}
		c.Mounts = append(c.Mounts, p)
	}
	return c.fillVolumes(ctx, fill)
}

func mountMode(m volumes.Mount) string {
	if m.ReadOnly {
		return "ro"
	}
	return ""
}

func (c *Container) makeVolume(m volumes.Mount) (*volumes.Volume, error) {
	store, err := c.engine.Volumes()
	if err != nil {
		return nil, err
	}
	return store.Create(m.Source, m.Labels, c.ID)
}

// makeBindSource makes the folder that -v names. As in Docker it stays: it is the user's.
func makeBindSource(m volumes.Mount) error {
	if !m.Make {
		return nil
	}
	if _, err := os.Stat(m.Source); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(m.Source, 0o755); err != nil {
		return fmt.Errorf("make the folder %s: %w", m.Source, jsonfile.Cause(err))
	}
	return nil
}

// checkPropagation refuses what would have no effect: mounts pass between the host and a container only where the host's own
// mount is shared. See mount_namespaces(7).
func checkPropagation(m volumes.Mount) error {
	kind := strings.TrimPrefix(m.Propagation, "r")
	if kind != "shared" && kind != "slave" {
		return nil
	}
	id, err := mount.IDOf(m.Source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the mount itself will say so
	}
	if err != nil {
		return err
	}
	table, err := mount.Current()
	if err != nil {
		return err
	}
	on, ok := table.ByID(id)
	if !ok || on.Shared > 0 || kind == "slave" && on.Master > 0 {
		return nil
	}
	return &InputError{What: "propagation", Value: m.Propagation, Err: fmt.Errorf(
		"path %s is mounted on %s, which is not a shared mount", m.Source, on.Target)}
}

// fillVolumes gives volumes that are empty what the image has in their place.
func (c *Container) fillVolumes(ctx context.Context, list []volumes.Mount) error {
	if len(list) == 0 {
		return nil
	}
	store, err := c.engine.Volumes()
	if err != nil {
		return err
	}
	var empty []*volumes.Volume
	var targets []string
	for _, m := range list {
		v, err := store.Get(m.Source)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(v.Mountpoint())
		if err != nil {
			return fmt.Errorf("look into volume %s: %w", v.Name, jsonfile.Cause(err))
		}
		if len(entries) == 0 {
			empty, targets = append(empty, v), append(targets, m.Target)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	lower, err := c.engine.images.Layers(ctx, c.image, unionfs.Overlay)
	if err != nil {
		return err
	}
	return WithUnion(ctx, unionfs.Overlay, unionfs.Layers{Lower: lower}, c.path(rootFolder), func(tree *rootfs.Tree) error {
		for i, v := range empty {
			if _, err := v.Populate(ctx, tree, targets[i]); err != nil {
				return err
			}
		}
		return nil
	})
}
