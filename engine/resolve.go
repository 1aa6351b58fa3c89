package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/jsonfile"
	mount "github.com/nslab/nslab/labs/02-mount"
	stage "github.com/nslab/nslab/labs/09-network"
)

// A container that runs gets its first network with names. Its monitor begins to answer, and its resolv.conf has to name the
// monitor. That file is in a layer of a mounted overlay, which nobody may change from outside ("Changes to underlying
// filesystems" in the kernel's overlayfs.rst); and what would be written through the mount would stay in the container's own layer,
// for commits and later starts. So another file is mounted on it, as long as this run lasts.

// resolveFolder, in the container's folder, has the resolv.conf of a container whose monitor began to answer while it ran.
const resolveFolder = "resolve"

// errOwnResolver is a resolv.conf that somebody inside has changed: it stays as he wants it.
var errOwnResolver = errors.New("its /etc/resolv.conf was changed")

// forgetResolver removes what an earlier run has left of it.
func (c *Container) forgetResolver() error {
	if err := removeAll(c.path(resolveFolder)); err != nil {
		return fmt.Errorf("remove %s: %w", c.path(resolveFolder), jsonfile.Cause(err))
	}
	return nil
}

// resolveNow lets a container that runs ask its monitor for names.
func (c *Container) resolveNow(ctx context.Context, b *network.Sandbox, ns *stage.Namespace, said func(string)) error {
	conn, err := stream.Dial(filepath.Join(c.RunDir(), monitor.SocketFile))
	if err != nil {
		return err
	}
	if err := stream.Ask(conn, monitor.Resolve); err != nil {
		return err
	}
	if err := stage.Redirect(ctx, ns, network.ResolverAddress, network.ResolverPort); err != nil {
		return err
	}
	etc, err := c.resolverEtc(true)
	if err != nil {
		return err
	}
	text, err := etc.Resolver()
	if err != nil {
		return err
	}
	if err := c.coverResolver(ctx, []byte(text)); err != nil && !errors.Is(err, errOwnResolver) {
		return err
	} else if err != nil && said != nil {
		said(fmt.Sprintf("container %s: %v; names are known at %s", c.Name, err, network.ResolverAddress.Addr()))
	}
	b.Resolver, b.Servers = true, c.HostConfig.DNS // last: whoever was killed before finds it all to do
	return b.Save(c.RunDir())
}

// writeResolver writes the file that is to be mounted. The container may write to it, so it lies where the rest of the
// container's files do.
func (c *Container) writeResolver(text []byte) (string, error) {
	dir := c.path(resolveFolder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", dir, jsonfile.Cause(err))
	}
	name := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return "", fmt.Errorf("write %s: %w", name, jsonfile.Cause(err))
	}
	return name, os.Chmod(name, 0o644) // whatever the umask is
}

// coverResolver mounts a file with that text on the container's resolv.conf. Nothing of the container is executed or followed: the name is
// looked up below its root, and what was found is what is covered (CVE-2021-30465).
func (c *Container) coverResolver(ctx context.Context, text []byte) error {
	was, err := os.ReadFile(filepath.Join(c.path(initLayer), "etc/resolv.conf"))
	if err != nil {
		return fmt.Errorf("read the container's resolv.conf: %w", jsonfile.Cause(err))
	}
	root, err := c.openRoot(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	at, err := root.Open(ctx, "/etc/resolv.conf", unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		return errOwnResolver
	}
	if err != nil {
		return err
	}
	defer at.Close()
	switch {
	case hasText(at, text):
		return nil
	case !hasText(at, was):
		return errOwnResolver
	}
	name, err := c.writeResolver(text)
	if err != nil {
		return err
	}
	tree, err := mount.Clone(ctx, name, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	return c.amongMounts(ctx, func() error {
		if err := mount.AttachAt(ctx, tree, at); err != nil {
			return err
		}
		return mount.SetPropagation(ctx, tree, unix.MS_PRIVATE) // it was a copy of a mount of the host's, which is often shared
	})
}

// hasText tells whether what a descriptor was opened for with O_PATH is a file with just that. A device, or a pipe, would be
// opened by being read.
func hasText(at *os.File, text []byte) bool {
	if st, err := at.Stat(); err != nil || !st.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(mount.Through(at))
	if err != nil {
		return false
	}
	defer f.Close()
	is, err := io.ReadAll(io.LimitReader(f, int64(len(text))+1))
	return err == nil && bytes.Equal(is, text)
}
