package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/moby/sys/reexec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	setns "github.com/nslab/nslab/labs/06-setns"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// view is layers that are to be seen as one, and what is mounted in there.
type view struct {
	Driver unionfs.Driver
	Layers unionfs.Layers
	Target string
	Mounts []specs.Mount
}

// WithUnion shows layers as one at target to f, and to nobody else: in a mount namespace that ends with f. However nslab is ended
// meanwhile, the kernel takes the mounts away.
//
// Root needs no more than a thread for that. An ordinary user may mount only in a user namespace, and a thread cannot enter one by
// itself; so he gets a child that does, and from it a descriptor of what it has mounted.
func WithUnion(ctx context.Context, d unionfs.Driver, l unionfs.Layers, target string, f func(*rootfs.Tree) error) error {
	return view{Driver: d, Layers: l, Target: target}.show(ctx, f)
}

func (v view) show(ctx context.Context, f func(*rootfs.Tree) error) error {
	if os.Geteuid() != 0 {
		return v.inChild(ctx, f)
	}
	return setns.OnThread(func() error {
		if err := mount.Unshare(ctx); err != nil {
			return err
		}
		tree, err := v.mount(ctx)
		if err != nil {
			return err
		}
		defer tree.Close()
		return f(tree)
	})
}

// mount makes all mounts in the mount namespace of the calling thread, which nobody else is in.
func (v view) mount(ctx context.Context) (*rootfs.Tree, error) {
	if err := mount.PrivateTree(ctx, "/"); err != nil {
		return nil, err
	}
	if _, err := unionfs.Mount(unionfs.WithServerDeath(ctx), v.Driver, v.Layers, v.Target); err != nil {
		return nil, err
	}
	tree, err := rootfs.OpenTree(ctx, v.Target)
	if err != nil {
		return nil, err
	}
	for _, m := range v.Mounts {
		if err := volumes.Attach(ctx, tree, m, nil); err != nil {
			return nil, errors.Join(err, tree.Close())
		}
	}
	return tree, nil
}

// unionEntry is nslab as the child that holds a union.
const unionEntry = "nslab-union"

func init() { reexec.Register(unionEntry, unionMain) }

// inChild has a child mount the union. It ends when we close the socket, or are no more.
func (v view) inChild(ctx context.Context, f func(*rootfs.Tree) error) (err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	one := func(id int) []specs.LinuxIDMapping { return []specs.LinuxIDMapping{{HostID: uint32(id), Size: 1}} }
	cfg := pid.Config{
		Namespaces: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UIDMappings: one(os.Geteuid()), GIDMappings: one(os.Getegid()),
	}
	cmd := pid.Command(cfg, unionEntry)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	child, err := pid.Start(ctx, cfg, cmd)
	if err != nil {
		return errors.Join(err, ours.Close())
	}
	defer func() {
		waitErr := errors.Join(ours.Close(), child.Wait(context.WithoutCancel(ctx)))
		if err == nil && waitErr != nil {
			err = fmt.Errorf("end the process that holds the layers: %w", waitErr)
		}
	}()
	theirs.Close() // or its end would not be one for us
	if err := json.NewEncoder(ours).Encode(v); err != nil {
		return fmt.Errorf("have the layers mounted: %w", err)
	}
	root, err := receiveRoot(ours)
	if err != nil {
		return fmt.Errorf("have the layers mounted: %w", err)
	}
	defer root.Close()
	tree, err := rootfs.OpenTree(ctx, mount.Through(root))
	if err != nil {
		return err
	}
	defer tree.Close()
	return f(tree)
}

// receiveRoot gets the descriptor of the root, or the text of an error.
func receiveRoot(socket *os.File) (*os.File, error) {
	text, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, controlled, _, _, err := unix.Recvmsg(int(socket.Fd()), text, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil || len(messages) == 0 {
		return nil, errors.Join(errors.New(string(text[:n])), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "root"), nil
}

// unionMain is the child.
func unionMain() {
	socket := os.NewFile(3, "socket")
	unix.CloseOnExec(3)
	var v view
	if err := json.NewDecoder(socket).Decode(&v); err != nil {
		os.Exit(1) // whoever started us is gone
	}
	text, rights := []byte{0}, []byte(nil)
	tree, err := v.mount(context.Background())
	if err == nil {
		var root *os.File
		if root, err = tree.Open(context.Background(), "/", unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
			rights = unix.UnixRights(int(root.Fd()))
		}
	}
	if err != nil {
		text = []byte(err.Error())
	}
	if unix.Sendmsg(3, text, rights, nil, 0) == nil && err == nil {
		io.Copy(io.Discard, socket) // until nobody needs it any more
	}
}
