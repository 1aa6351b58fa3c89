package engine

import (
	"context"
	"os"
	"path"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nslab/nslab/calm"
	setns "github.com/nslab/nslab/labs/06-setns"
	container "github.com/nslab/nslab/labs/12-container"
)

// ExecOptions is what to run in a container that runs.
type ExecOptions struct {
	Args       []string
	Env        []string // over the container's own
	WorkingDir string
	User       string
	Tty        bool
	Size       [2]uint // of the terminal: rows, columns
	Privileged bool
	Detach     bool // it lives on when this process ends

	Stdin, Stdout, Stderr *os.File // nil is /dev/null; not used with Tty
}

// Exec runs one more program in a container, confined as the container itself is. The outer end of its terminal is nil where
// none was asked for.
func (e *Engine) Exec(ctx context.Context, ref string, o ExecOptions) (*setns.Process, *os.File, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if !c.State.Running || c.State.Paused {
		return nil, nil, &StateError{Container: ref, Status: c.State.Status, Op: "exec in"}
	}
	cfg, err := c.execConfig(o)
	if err != nil {
		return nil, nil, err
	}
	return c.seen.Exec(ctx, cfg)
}

// execConfig takes over from the container what the caller has not said.
func (c *Container) execConfig(o ExecOptions) (container.ExecConfig, error) {
	inherited := *c
	inherited.Config.Tty = o.Tty
	p := &specs.Process{
		Terminal: o.Tty, Args: o.Args, Env: mergeEnv(inherited.environment(), o.Env), Cwd: c.Config.WorkingDir,
		NoNewPrivileges: c.HostConfig.noNewPrivileges(), Rlimits: rlimits(c.HostConfig.Ulimits),
	}
	if o.Tty && o.Size != [2]uint{} {
		p.ConsoleSize = &specs.Box{Height: o.Size[0], Width: o.Size[1]}
	}
	cfg := container.ExecConfig{
		Process: p, User: c.Config.User, Groups: c.HostConfig.GroupAdd, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		TimerSlack: calm.Usual(),
	}
	if o.WorkingDir != "" {
		p.Cwd = path.Clean(o.WorkingDir)
	}
	if o.User != "" {
		cfg.User = o.User
	}
	if !o.Detach {
		cfg.Pdeathsig = syscall.SIGKILL
	}
	h := c.HostConfig
	if o.Privileged {
		h.Privileged = true
	}
	inherited.HostConfig = h
	spec := &specs.Spec{Process: p, Linux: &specs.Linux{}}
	if err := inherited.specRights(context.Background(), spec); err != nil {
		return cfg, err
	}
	if o.Privileged { // as in Docker: no filter either, whatever the container has
		return cfg, nil
	}
	var err error
	cfg.Filter, _, err = inherited.filter(p.Capabilities.Bounding)
	return cfg, err
}
