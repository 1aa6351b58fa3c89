package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
	setns "github.com/nslab/nslab/labs/06-setns"
)

// flagOf are the runtime-spec's names, all but the cgroup namespace: see namespaceSet.cgroup.
func flagOf(t specs.LinuxNamespaceType) uintptr {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	}
	return 0
}

// namespaceSet says which namespaces the init is born in.
type namespaceSet struct {
	config pid.Config
	cgroup bool // a new cgroup namespace is made by the init itself: its root is the group that its maker is in *then*
	joined []*os.File
}

func (n *namespaceSet) close() {
	for _, f := range n.joined {
		f.Close()
	}
}

// namespacesOf reads the list of the spec: each is new, or that of somebody else, by path.
func namespacesOf(spec *specs.Spec) (_ *namespaceSet, err error) {
	n := &namespaceSet{config: pid.Config{
		UIDMappings: spec.Linux.UIDMappings, GIDMappings: spec.Linux.GIDMappings, Setgroups: os.Geteuid() == 0,
		TimeOffsets: spec.Linux.TimeOffsets,
	}}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for _, ns := range spec.Linux.Namespaces {
		flag := flagOf(ns.Type)
		switch {
		case flag == 0:
			return nil, fmt.Errorf("12-container: namespace of type %q: %w", ns.Type, errors.ErrUnsupported)
		case ns.Path == "" && flag == unix.CLONE_NEWCGROUP:
			n.cgroup = true
		case ns.Path == "":
			n.config.Namespaces |= flag
		case flag == unix.CLONE_NEWUSER || flag == unix.CLONE_NEWNS || flag == unix.CLONE_NEWTIME:
			return nil, fmt.Errorf("12-container: join the %s namespace %s: %w", ns.Type, ns.Path, errors.ErrUnsupported)
		default:
			f, kind, err := setns.OpenFile(context.Background(), ns.Path)
			if err != nil {
				return nil, err
			}
			n.joined = append(n.joined, f)
			if kind.Flag != flag {
				return nil, fmt.Errorf("12-container: %s is a %s namespace, not one of type %s", ns.Path, kind.Name, ns.Type)
			}
		}
	}
	if n.config.Namespaces&unix.CLONE_NEWNS == 0 {
		return nil, errors.New("12-container: the spec has no mount namespace: its mounts would be the host's")
	}
	if len(n.joined) > 0 {
		n.config.Before = n.join
	}
	return n, nil
}

// join moves the thread that is about to clone into the namespaces of others. For a PID namespace there is no other way:
// nobody changes his own number. See pid.Config.Before.
func (n *namespaceSet) join(ctx context.Context) error {
	for _, f := range n.joined {
		flag, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
		if err != nil {
			return fmt.Errorf("12-container: ask what namespace %s is: %w", f.Name(), err)
		}
		if err := setns.Setns(ctx, f, uintptr(flag)); err != nil {
			return err
		}
	}
	runtime.KeepAlive(n)
	return nil
}

func openFolder(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
