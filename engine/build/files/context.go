package files

import (
	"context"
	"errors"
	"io"
	"net/http"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// Options say where a context comes from.
type Options struct {
	// Source is what the user gave: a folder, "-" for an archive or a Dockerfile on Stdin, or the http(s) address of one.
	Source string
	// File is -f. Empty: Dockerfile at the top of the context. "-": Stdin.
	File  string
	Stdin io.Reader
	// Scratch is an empty folder for what has to be unpacked or downloaded. Its maker removes it after Close.
	Scratch string
	Client  *http.Client // nil: one that gives up on a server that stands still
}

// Context is what a Dockerfile sees of the machine it is built on.
type Context struct {
	Dockerfile []byte // its text
	Name       string // of the Dockerfile, for messages: "Dockerfile", "../x/Dockerfile", "-"
	root       *Root
}

// Open reads a context. Nothing of it is copied if it is a folder.
func Open(ctx context.Context, o Options) (*Context, error) { return nil, errors.ErrUnsupported }

// Root is where the sources of COPY and ADD are found.
func (c *Context) Root() *Root { return c.root }

// Close lets the context go.
func (c *Context) Close() error { return errors.ErrUnsupported }

// Root is a tree in which sources are looked up: a context as its .dockerignore shows it, or the root of another stage.
type Root struct{ tree *rootfs.Tree }

// NewRoot is the root of another stage or image. All of it is seen, and owners are kept. The tree stays the caller's.
func NewRoot(t *rootfs.Tree) *Root { return &Root{tree: t} }
