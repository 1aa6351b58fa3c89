package files

import (
	"context"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// Root is a tree in which sources are looked up: a context as its .dockerignore shows it, or the root of another stage.
type Root struct {
	top      *os.File
	ignore   *patterns // what is not seen
	context  bool      // its files belong to whoever builds, which in the image is root; and it has no devices
	sums     sync.Map  // inode → content: what was read already
	identity string
}

// NewRoot is the root of another stage or image. All of it is seen, and owners are kept. It has a descriptor of its own; the
// tree stays the caller's.
func NewRoot(ctx context.Context, t *rootfs.Tree) (*Root, error) {
	top, err := t.Open(ctx, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Root{top: top}, nil
}

// Identify names the content of the whole root by something that stands for it, a chain id for example. A digest is then of
// that, and no file is read for it.
func (r *Root) Identify(id string) { r.identity = id }

// Close gives the descriptor back.
func (r *Root) Close() error { return r.top.Close() }

// hidden tells whether .dockerignore hides a path.
func (r *Root) hidden(name string) bool {
	is, _, err := r.ignore.matchPath(name)
	return is && err == nil
}

// Bind finds what RUN --mount=type=bind shows of the root: an open file or folder, to be mounted by descriptor. It is the
// real one, unless .dockerignore hides something in it: then it is a copy, made in the folder scratch.
func (r *Root) Bind(ctx context.Context, name, scratch string) (*os.File, error) {
	in := Instruction{Sources: []string{name}, Dest: "/" + bindName}
	p, err := in.Resolve(ctx, r)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	here, err := placeAt(r.top, p.sources[0].path)
	if err != nil {
		return nil, &Error{Text: quoted(name), Err: err}
	}
	if r.ignore == nil || !here.isDir() {
		return here.file, nil
	}
	here.close()
	t, err := rootfs.OpenTree(ctx, scratch)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if _, err := p.Copy(ctx, t); err != nil {
		return nil, err
	}
	return t.Open(ctx, path.Join("/", bindName), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

const bindName = "context"
