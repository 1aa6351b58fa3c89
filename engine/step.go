package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/calm"
	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/jsonfile"
)

// Step is a container that runs one command for whoever waits for it, and is gone with it: RUN of a build. It is confined like
// any other, but has no name, no log and no monitor, and writes to a layer of the caller's.
//
// It has a folder among the containers without a record in it, like one that is still being made. So nobody lists it, and
// should the caller be killed, the kernel ends the command, and the next command of nslab takes the rest away.
type Step struct {
	Config     Config // Env as the command finds it, Cmd, User, WorkingDir, Hostname
	HostConfig HostConfig
	Layers     unionfs.Layers
	Unions     []container.Union // that Mounts bind something from
	Mounts     []specs.Mount
	Places     []Place // for Mounts, which the image lacks; they are there for this command only
	Files      []StepFile

	Stdin, Stdout, Stderr *os.File
}

// Place is something to mount on: a folder, or an empty file.
type Place struct {
	Path string
	File bool
}

// StepFile is a small file that this command sees, and no layer: a secret. It is kept where nothing outlives a reboot.
type StepFile struct {
	Target   string
	Content  []byte
	Mode     uint32
	UID, GID int
}

// RunStep runs a step and returns the status of its command.
func (e *Engine) RunStep(ctx context.Context, s Step) (status int, err error) {
	c := &Container{engine: e, Record: Record{
		Created: time.Now().UTC(), Config: s.Config, HostConfig: s.HostConfig, Driver: unionfs.Overlay,
	}}
	if c.ID, err = newID(); err != nil {
		return 0, err
	}
	c.Name = "build-" + c.ID[:12]
	c.HostConfig.defaults()
	if err := c.HostConfig.check(); err != nil {
		return 0, err
	}
	if err := c.checkStepNetwork(); err != nil {
		return 0, err
	}
	if err := c.findNames(ctx); err != nil {
		return 0, err
	}
	if err := e.reapAll(ctx); err != nil {
		return 0, err
	}
	if err := c.lockNew(ctx); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.removeFolders(), c.Close()) }()
	if err := c.takeNetworks(ctx, func(string) {}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.endStepNetwork(context.WithoutCancel(ctx))) }()
	return c.runStep(ctx, &s)
}

// checkStepNetwork decides on the network. On those where containers know one another by name, a monitor answers for the names,
// and a step has none.
func (c *Container) checkStepNetwork() error {
	if err := c.checkNetworks(nil); err != nil {
		return err
	}
	if m := c.HostConfig.NetworkMode; c.bridged() && m != network.Bridge {
		return &InputError{What: "network", Value: m, Err: errors.New("a build cannot join it"), Hint: "its network is default, none, host or container:NAME"}
	}
	return nil
}

// endStepNetwork gives the addresses back. The links are gone with the namespace.
func (c *Container) endStepNetwork(ctx context.Context) error {
	if c.connection == nil {
		return nil
	}
	return c.engine.networks.Detach(ctx, c.connection.sandbox, c.RunDir(), false)
}

func (c *Container) runStep(ctx context.Context, s *Step) (status int, err error) {
	// As in a start by hand, the init starts up while we make folders.
	outline, err := c.outline(ctx)
	if err != nil {
		return 0, err
	}
	run, err := container.Begin(ctx, container.Config{ID: c.ID, Dir: c.RunDir(), Spec: outline})
	if err != nil {
		return 0, err
	}
	if c.connection != nil {
		if err = c.ensureNetworks(ctx); err == nil {
			err = c.attachTo(ctx, run.Pid)
		}
	}
	var cfg *container.Config
	if err == nil {
		cfg, err = c.stepConfig(ctx, s)
	}
	if err != nil {
		return 0, errors.Join(err, run.Abort(context.WithoutCancel(ctx)))
	}
	if err := run.Complete(ctx, *cfg); err != nil {
		return 0, err
	}
	if err := run.Start(ctx); err != nil {
		return 0, stepError(err)
	}
	ended, waitErr := run.Wait(ctx)
	oom := run.OOMKilled()
	// PID 1 is gone, or is killed here: nothing of the command outlives it.
	if err := run.Delete(context.WithoutCancel(ctx), true); err != nil {
		return 0, err
	}
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case oom:
		return 0, fmt.Errorf("the command was killed, for it had used up its memory limit")
	case ended.Signaled():
		return 128 + int(ended.Signal()), nil
	case !ended.Exited():
		return 0, waitErr
	}
	return ended.ExitStatus(), nil
}

// stepError gives a command that cannot be executed the status that a shell would.
func stepError(err error) error {
	var init *container.InitError
	if errors.As(err, &init) {
		switch init.Kind {
		case container.KindMissing:
			return &StartError{Code: 127, Err: err}
		case container.KindProgram:
			return &StartError{Code: 126, Err: err}
		}
	}
	return err
}

func (c *Container) stepConfig(ctx context.Context, s *Step) (*container.Config, error) {
	if err := os.MkdirAll(c.engine.containersDir(), 0o711); err != nil {
		return nil, fmt.Errorf("make %s: %w", c.engine.containersDir(), jsonfile.Cause(err))
	}
	for dir, mode := range map[string]fs.FileMode{"": 0o710, initLayer: 0o755, rootFolder: 0o755} {
		if err := os.MkdirAll(c.path(dir), mode); err != nil {
			return nil, fmt.Errorf("make %s: %w", c.path(dir), jsonfile.Cause(err))
		}
	}
	if err := c.writeInitLayer(ctx); err != nil {
		return nil, err
	}
	if err := c.likeImage(s); err != nil {
		return nil, err
	}
	spec, err := c.spec(ctx)
	if err != nil {
		return nil, err
	}
	spec.Process.Env = s.Config.Env
	files, err := c.stepFiles(s.Files)
	if err != nil {
		return nil, err
	}
	spec.Mounts = slices.Concat(spec.Mounts, s.Mounts, files)
	filter, _, err := c.filter(spec.Process.Capabilities.Bounding)
	if err != nil {
		return nil, err
	}
	layers := s.Layers
	layers.Lower = append([]string{c.path(initLayer)}, layers.Lower...)
	return &container.Config{
		ID: c.ID, Dir: c.RunDir(), Spec: spec, Driver: c.Driver, Layers: layers, Unions: s.Unions, Filter: filter,
		User: c.Config.User, Die: true, TimerSlack: calm.Usual(), Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr,
	}, nil
}

// likeImage makes the folders of the init layer what they are in the image. The layer lies above the image's, so overlay takes
// owner, mode and time of a folder from here, and what a command writes there takes them along into the image.
func (c *Container) likeImage(s *Step) error {
	made := []string{"dev", "proc", "sys", "etc"}
	for _, p := range s.Places {
		dir := strings.TrimPrefix(path.Clean(p.Path), "/")
		if p.File {
			dir = path.Dir(dir)
		}
		err := os.MkdirAll(filepath.Join(c.path(initLayer), dir), 0o755)
		if err == nil && p.File {
			err = os.WriteFile(filepath.Join(c.path(initLayer), p.Path), nil, 0o600)
		}
		if err != nil {
			return fmt.Errorf("make a place to mount on: %w", jsonfile.Cause(err))
		}
		for ; dir != "." && dir != ""; dir = path.Dir(dir) {
			made = append(made, dir)
		}
	}
	for _, dir := range made {
		var st unix.Stat_t
		for _, layer := range s.Layers.Lower { // the topmost first; who has it, says what it is like
			if unix.Lstat(filepath.Join(layer, dir), &st) == nil {
				break
			}
		}
		ours := filepath.Join(c.path(initLayer), dir)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		err := os.Chmod(ours, fs.FileMode(st.Mode&0o777)|stickyOf(st.Mode))
		if err == nil && os.Geteuid() == 0 {
			err = os.Lchown(ours, int(st.Uid), int(st.Gid))
		}
		if err == nil {
			err = unix.UtimesNanoAt(unix.AT_FDCWD, ours, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return fmt.Errorf("make the init layer like the image: %w", jsonfile.Cause(err))
		}
	}
	return nil
}

// stepFiles writes the small files, and says how they are shown.
func (c *Container) stepFiles(list []StepFile) (mounts []specs.Mount, err error) {
	for n, f := range list {
		name := filepath.Join(c.RunDir(), fmt.Sprintf("file-%d", n))
		err := os.WriteFile(name, f.Content, 0o600)
		if err == nil {
			err = os.Chmod(name, fs.FileMode(f.Mode&0o777))
		}
		if err == nil && os.Geteuid() == 0 {
			err = os.Chown(name, f.UID, f.GID)
		}
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", f.Target, jsonfile.Cause(err))
		}
		mounts = append(mounts, specs.Mount{Destination: f.Target, Type: "bind", Source: name, Options: []string{"bind", "rprivate", "ro"}})
	}
	return mounts, nil
}

func stickyOf(mode uint32) (m fs.FileMode) {
	for bit, go_ := range map[uint32]fs.FileMode{syscall.S_ISVTX: fs.ModeSticky, syscall.S_ISGID: fs.ModeSetgid, syscall.S_ISUID: fs.ModeSetuid} {
		if mode&bit != 0 {
			m |= go_
		}
	}
	return m
}

// StepFiles are the files that a step finds whatever its image has, since no image can know them. They belong to no layer.
func StepFiles() []string {
	return []string{".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}
}
