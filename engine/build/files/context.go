package files

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

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
	Avoid   []string     // folders that are no part of a context, wherever they lie
}

// Context is what a Dockerfile sees of the machine it is built on.
type Context struct {
	Dockerfile []byte // its text
	Name       string // of the Dockerfile, for messages: "Dockerfile", "../x/Dockerfile", "-"
	root       *Root
}

const (
	defaultName   = "Dockerfile"
	maxDockerfile = 16 << 20
)

// Open reads a context. Nothing of it is copied if it is a folder.
func Open(ctx context.Context, o Options) (*Context, error) {
	if o.Source == "-" && o.File == "-" {
		return nil, refuse("", "invalid argument: can't use stdin for both build context and dockerfile")
	}
	if isGit(o.Source) {
		return nil, refuse("clone it, and build in the folder", "%s: a git repository as the context", quoted(o.Source))
	}
	c := &Context{}
	if err := c.open(ctx, o); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Context) open(ctx context.Context, o Options) error {
	switch {
	case o.Source == "-":
		return c.fromStream(ctx, o, o.Stdin)
	case isAddress(o.Source):
		from, err := fetch(ctx, o.Client, o.Source, o.Scratch)
		if err != nil {
			return err
		}
		defer from.file.Close()
		return c.fromStream(ctx, o, from.reader())
	case o.Source == "":
		return refuse(`"." is the folder that you are in`, "no build context")
	}
	return c.fromFolder(ctx, o)
}

// Root is where the sources of COPY and ADD are found.
func (c *Context) Root() *Root { return c.root }

// Close lets the context go.
func (c *Context) Close() error {
	if c.root == nil {
		return nil
	}
	root := c.root
	c.root = nil
	return root.Close()
}

// setRoot makes a folder the context's root.
func (c *Context) setRoot(dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return refuse("the build context is a folder, the address of an archive, or - for one on standard input",
			"unable to prepare context: path %s not found", quoted(dir))
	}
	if err != nil {
		return &Error{Text: "open the build context " + quoted(dir), Err: err}
	}
	c.root = &Root{top: os.NewFile(uintptr(fd), dir), context: true}
	return nil
}

func (c *Context) fromFolder(ctx context.Context, o Options) error {
	if err := c.setRoot(o.Source); err != nil {
		return err
	}
	var own *place // the Dockerfile's folder, if that is not the context
	ignore := ""
	var err error
	switch {
	case o.File == "-":
		err = c.readStdin(o.Stdin)
	case o.File == "":
		c.Name, err = defaultName, c.readInside(defaultName)
		ignore = defaultName + ignoreName
	default:
		c.Name = o.File
		own, ignore, err = c.readFile(o.Source, o.File)
	}
	if own != nil {
		defer own.close()
	}
	if err != nil {
		return err
	}
	avoid, err := avoided(o.Source, o.Avoid)
	if err != nil {
		return err
	}
	return c.readIgnore(own, ignore, avoid)
}

// readInside reads a Dockerfile of the context. A link in its place is followed as far as the context goes: what another
// folder of the host has is not this project's, and would be shown in messages.
func (c *Context) readInside(name string) error {
	here, err := walkTo(c.root.top, name, nil)
	if err == nil && here.file == nil && path.Base(name) == defaultName {
		here, err = walkTo(c.root.top, path.Join(path.Dir(name), strings.ToLower(defaultName)), nil)
	}
	if err != nil {
		return &Error{Text: "open " + quoted(name), Err: err}
	}
	defer here.close()
	return c.readPlace(&here, name)
}

func (c *Context) readPlace(here *place, name string) (err error) {
	if here.file == nil {
		return &Error{Text: "open " + quoted(name), Err: unix.ENOENT, Hint: "-f names the Dockerfile, if it is not the one of the build context"}
	}
	if c.Dockerfile, err = readText(here, maxDockerfile); err != nil {
		return &Error{Text: "read " + quoted(name), Err: err}
	}
	return nil
}

// readFile reads the Dockerfile that -f names. One that is in the context is looked up there; any other in its own folder,
// which it cannot leave by a link either.
func (c *Context) readFile(source, name string) (own *place, ignore string, err error) {
	if inside, ok := within(source, name); ok {
		return nil, inside + ignoreName, c.readInside(inside)
	}
	dir, base := filepath.Split(name)
	fd, err := unix.Open(filepath.Clean(at(dir)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", &Error{Text: "open " + quoted(name), Err: err}
	}
	own = &place{file: os.NewFile(uintptr(fd), dir)}
	here, err := walkTo(own.file, base, nil)
	if err != nil {
		return own, "", &Error{Text: "open " + quoted(name), Err: err}
	}
	defer here.close()
	return own, base + ignoreName, c.readPlace(&here, name)
}

// within tells whether a file lies below a folder, by their names when the links in the folders are followed, and what it is
// called there.
func within(folder, name string) (string, bool) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", false
	}
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return "", false
	}
	realFolder, err := filepath.EvalSymlinks(folder)
	realDir, err2 := filepath.EvalSymlinks(dir)
	if err != nil || err2 != nil {
		return "", false
	}
	rel, err := filepath.Rel(realFolder, realDir)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return path.Join(rel, filepath.Base(name)), true
}

// readIgnore reads the patterns that belong to the Dockerfile, or else those of the context. They are about what COPY sees;
// they may name themselves, and the Dockerfile.
func (c *Context) readIgnore(own *place, name string, more []string) (err error) {
	top := c.root.top
	if own != nil {
		top = own.file
	}
	for _, from := range []struct {
		top  *os.File
		name string
	}{{top, name}, {c.root.top, ignoreName}} {
		if from.name == "" {
			continue
		}
		here, err := walkTo(from.top, from.name, nil)
		if err != nil {
			return &Error{Text: "open " + quoted(from.name), Err: err}
		}
		if here.file == nil {
			continue
		}
		defer here.close()
		text, err := readText(&here, maxIgnore)
		if err != nil {
			return &Error{Text: "read " + quoted(from.name), Err: err}
		}
		c.root.ignore, err = readIgnore(from.name, text, more...)
		return err
	}
	c.root.ignore, err = newPatterns(more)
	return err
}

func (c *Context) readStdin(r io.Reader) error {
	c.Name = "-"
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err != nil {
		return fmt.Errorf("read the Dockerfile from standard input: %w", err)
	}
	if len(text) > maxDockerfile {
		return &Error{Text: "read the Dockerfile from standard input", Err: fmt.Errorf("more than %d bytes: %w", maxDockerfile, unix.EFBIG)}
	}
	c.Dockerfile = text
	return nil
}

// fromStream reads an archive, or a Dockerfile that then has an empty context.
func (c *Context) fromStream(ctx context.Context, o Options, r io.Reader) error {
	in := bufio.NewReaderSize(r, 1<<20)
	head, err := in.Peek(1 << 20) // an archive of less than that is looked at as a whole
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the build context: %w", err)
	}
	if err := c.setRoot(o.Scratch); err != nil {
		return err
	}
	if !beginsArchive(head) {
		if o.File != "" {
			return refuse("", "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
		}
		return c.readStdin(in)
	}
	if err := unpackContext(ctx, in, o.Scratch); err != nil {
		return &Error{Text: "unpack the build context", Err: err}
	}
	switch {
	case o.File == "-":
		return c.readStdin(o.Stdin)
	case o.File == "":
		c.Name = defaultName
	default:
		c.Name = o.File
	}
	return c.readInside(c.Name)
}

// beginsArchive is isArchive for the beginning of something: of an archive that is compressed, the first entry may be further on.
func beginsArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return isArchive(bytes.NewReader(head))
}

func unpackContext(ctx context.Context, r io.Reader, dir string) error {
	t, err := rootfs.OpenTree(ctx, dir)
	if err != nil {
		return err
	}
	defer t.Close()
	in, err := decompressed(cancelled{ctx, r})
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = rootfs.UnpackInto(ctx, t, in, rootfs.Rules{NoDevices: true, Limits: unpackLimits()})
	return err
}
