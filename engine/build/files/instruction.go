package files

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Instruction is a COPY or an ADD whose variables have been replaced.
type Instruction struct {
	Add     bool
	Sources []string
	Inline  []Inline // heredocs, after the sources
	Dest    string   // as written: its trailing slash has a meaning
	Workdir string   // of the stage; empty: /

	Chown    string   // "user:group", names or numbers
	Chmod    string   // "0755", "u=rwX,go=rX"
	Exclude  []string // patterns as in .dockerignore
	Parents  bool
	Link     bool   // accepted: here every layer is independent already
	Checksum string // ADD of an address: "sha256:…"
	Unpack   *bool  // ADD --unpack; nil: archives of the context are unpacked, those of an address are not

	Epoch   *time.Time   // SOURCE_DATE_EPOCH: no file is younger than that
	Scratch string       // a folder for downloads; empty: the system's
	Client  *http.Client // see [Options]
}

// Inline is a file whose content stands in the Dockerfile.
type Inline struct {
	Name    string
	Content []byte
}

// Plan is an instruction with the files that it means.
type Plan struct {
	in      Instruction
	root    *Root
	dest    string // absolute, with its trailing slash
	owner   owner
	mode    mode
	exclude *patterns
	sources []source
	digest  digest.Digest // empty: not made yet
	close   []io.Closer
}

// source is one thing to copy.
type source struct {
	name    string    // what it is called in a folder that it is copied to
	path    string    // below the root, all links followed
	include *patterns // of COPY --parents
	unpack  bool
	content *content // instead of a path: a download or a heredoc
}

// Resolve finds the sources of an instruction. Each must be there, and what is an address is downloaded.
func (in Instruction) Resolve(ctx context.Context, from *Root) (_ *Plan, err error) {
	p := &Plan{in: in, root: from, dest: in.dest()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := in.check(); err != nil {
		return nil, err
	}
	if p.owner, err = parseOwner(in.Chown); err != nil {
		return nil, &Error{Text: "--chown", Err: err}
	}
	if p.mode, err = parseMode(in.Chmod); err != nil {
		return nil, err
	}
	if p.exclude, err = newPatterns(in.Exclude); err != nil {
		return nil, &Error{Text: "--exclude", Err: err}
	}
	for _, text := range in.Sources {
		if err := p.add(ctx, text); err != nil {
			return nil, err
		}
	}
	for _, i := range in.Inline {
		c, err := inlineContent(i)
		if err != nil {
			return nil, err
		}
		p.sources = append(p.sources, source{name: i.Name, content: c})
	}
	return p, nil
}

// Close removes what was downloaded.
func (p *Plan) Close() error {
	var errs []error
	for _, c := range p.close {
		errs = append(errs, c.Close())
	}
	p.close = nil
	return errors.Join(errs...)
}

func (in *Instruction) word() string {
	if in.Add {
		return "ADD"
	}
	return "COPY"
}

func (in *Instruction) check() error {
	for _, text := range append(slices.Clone(in.Sources), in.Dest, in.Workdir, in.Chown, in.Chmod) {
		if strings.ContainsRune(text, 0) {
			return refuse("", "%s: a name with a zero byte", in.word())
		}
	}
	for _, part := range strings.Split(in.dest(), "/") {
		if err := reserved(part); err != nil {
			return err
		}
	}
	if len(in.Sources)+len(in.Inline) == 0 {
		return refuse("", "%s: no source", in.word())
	}
	for _, text := range in.Sources {
		if isAddress(text) && !in.Add {
			return refuse("ADD takes an address", "COPY: source can't be a URL for COPY")
		}
		if isGit(text) {
			return refuse("clone it first, and copy the folder", "%s %s: a git repository as the source", in.word(), quoted(text))
		}
	}
	if in.Checksum == "" {
		return nil
	}
	switch {
	case !in.Add:
		return refuse("", "checksum can't be specified for COPY")
	case len(in.Sources) != 1:
		return refuse("", "checksum can't be specified for multiple sources")
	case !isAddress(in.Sources[0]):
		return refuse("", "checksum requires an HTTP(S) source")
	}
	if _, err := digest.Parse(in.Checksum); err != nil {
		return refuse("it is written sha256:, and 64 hexadecimal digits", "--checksum=%s: %v", quoted(in.Checksum), err)
	}
	return nil
}

// dest is the destination as an absolute path that keeps what makes it a folder: "/", "/." or nothing at all at its end.
func (in *Instruction) dest() string {
	d := in.Dest
	full := path.Join("/", d)
	if !strings.HasPrefix(d, "/") {
		full = path.Join("/", in.Workdir, d)
	}
	if d == "" || d == "." || d == ".." || strings.HasSuffix(d, "/") || strings.HasSuffix(d, "/.") || strings.HasSuffix(d, "/..") {
		full = strings.TrimSuffix(full, "/") + "/"
	}
	return full
}

// add finds what one of the words before the destination means.
func (p *Plan) add(ctx context.Context, text string) error {
	if isAddress(text) {
		return p.download(ctx, text)
	}
	unpack := p.in.Add
	if p.in.Unpack != nil {
		unpack = *p.in.Unpack
	}
	if p.in.Parents {
		return p.addParents(ctx, text, unpack)
	}
	name := path.Join("/", filepath.ToSlash(text))
	fixed, glob := splitGlob(name)
	if glob == "" {
		s, err := p.find(ctx, name, text)
		if err == nil {
			s.unpack = unpack
			p.sources = append(p.sources, s)
		}
		return err
	}
	found, err := p.root.glob(ctx, fixed, glob)
	if err != nil {
		return err
	}
	for _, name := range found {
		s, err := p.find(ctx, name, name)
		if err != nil {
			return err
		}
		if skip, err := p.excluded(name); err != nil || skip {
			if err != nil {
				return err
			}
			continue
		}
		s.unpack = unpack
		p.sources = append(p.sources, s)
	}
	return nil
}

// excluded is about a file that a pattern matched: --exclude is about it by its own name.
func (p *Plan) excluded(name string) (bool, error) {
	is, _, err := p.exclude.matchPath(path.Base(name))
	return is, err
}

// addParents is add for --parents: what is before "/./" is left out of the names in the destination.
func (p *Plan) addParents(ctx context.Context, text string, unpack bool) error {
	pivot, below, ok := strings.Cut(text, "/./")
	if !ok {
		pivot, below = "/", text
	}
	below = strings.TrimPrefix(path.Join("/", below), "/")
	fixed, glob := splitGlob(path.Join("/", pivot))
	if below == "" {
		below = "**"
	}
	include, err := newPatterns([]string{below})
	if err != nil {
		return &Error{Text: "--parents", Err: err}
	}
	names := []string{fixed}
	if glob != "" {
		if names, err = p.root.glob(ctx, fixed, glob); err != nil {
			return err
		}
	} else if !hasGlob(below) {
		if _, err := p.find(ctx, path.Join(fixed, below), path.Join(pivot, below)); err != nil {
			return err
		}
	}
	for _, name := range names {
		s, err := p.find(ctx, name, name)
		if err != nil {
			return err
		}
		s.include, s.unpack = include, unpack
		p.sources = append(p.sources, s)
	}
	return nil
}

// find looks a source up. text is how it was written.
func (p *Plan) find(ctx context.Context, name, text string) (source, error) {
	here, err := walkTo(p.root.top, name, p.root.hidden)
	if err != nil && !errors.Is(err, unix.ENOTDIR) {
		return source{}, &Error{Text: "look up " + quoted(text), Err: err}
	}
	defer here.close()
	if here.file == nil {
		return source{}, p.missing(name, text)
	}
	if p.root.hidden(here.path) {
		if seen, err := p.root.somethingIn(ctx, &here); err != nil || !seen {
			return source{}, errors.Join(err, p.missing(name, text))
		}
	}
	return source{name: path.Base(name), path: here.path}, nil
}

// missing says that a source is not there, in buildkit's words.
func (p *Plan) missing(name, text string) error {
	hint := "the name is looked up in the root of that stage or image"
	if p.root.context {
		hint = "sources are looked up in the build context, and nothing outside of it is seen"
		if here, err := walkTo(p.root.top, name, nil); err == nil && here.file != nil {
			here.close()
			hint = "it is in the build context, but .dockerignore leaves it out"
		} else if here, err := placeAt(p.root.top, strings.TrimPrefix(path.Clean(name), "/")); err == nil {
			here.close()
			hint = "it is a link, and leads to nothing in the build context"
		} else if slices.Contains(strings.Split(text, "/"), "..") {
			hint = "a source cannot be outside of the build context: build with a folder above as the context, and -f"
		}
	}
	return &Error{Text: quoted(name) + ": not found", Hint: hint, Err: nil}
}
