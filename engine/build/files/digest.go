package files

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// A digest is what two copies have in common if they make the same files. It is of everything that gets into the image
// but times: a checkout gives every file another one, and a cache that asked for it would never be of use. Nor is it of an
// owner who is not kept.

// version is part of every digest: another one when what is hashed changes.
const version = "nslab files 1"

// inode is a file as it was at some moment. Whoever writes to it, or changes its rights, moves ctime; nobody can set that.
type inode struct {
	dev, ino      uint64
	size          int64
	ctime, ctime2 int64
}

func inodeOf(st *unix.Stat_t) inode {
	return inode{uint64(st.Dev), st.Ino, st.Size, int64(st.Ctim.Sec), int64(st.Ctim.Nsec)}
}

type sum = [sha256.Size]byte

// Digest is of all that the instruction makes: of the files, and of the instruction itself. The names of --chown are those of
// the stage that it is made in, and not looked at.
func (p *Plan) Digest(ctx context.Context) (digest.Digest, error) {
	if p.digest != "" {
		return p.digest, nil
	}
	if p.root.identity != "" {
		h := p.start()
		h.text("identity", p.root.identity)
		for _, s := range p.sources {
			h.source(s)
			h.text(s.path)
		}
		p.digest = h.digest()
		return p.digest, nil
	}
	entries := make([][]*entry, len(p.sources))
	hashers := newHashers(ctx, p.root)
	var err error
	for i, s := range p.sources {
		if s.content != nil {
			continue
		}
		err = p.visit(ctx, s, func(e *entry) error {
			entries[i] = append(entries[i], e)
			return hashers.add(e)
		})
		if err != nil {
			break
		}
	}
	if err = errors.Join(err, hashers.wait()); err != nil {
		return "", err
	}
	h := p.start()
	for i, s := range p.sources {
		h.source(s)
		for _, e := range entries[i] {
			if err := h.entry(e); err != nil {
				return "", err
			}
		}
	}
	p.digest = h.digest()
	return p.digest, nil
}

// visit goes through a source.
func (p *Plan) visit(ctx context.Context, s source, visit func(*entry) error) error {
	here, err := placeAt(p.root.top, s.path)
	if err != nil {
		if vanished(err) {
			return &Error{Text: quoted("/"+s.path) + ": it was there, and is not any more", Err: err}
		}
		return fmt.Errorf("open %s: %w", quoted("/"+s.path), err)
	}
	defer here.close()
	w := walk{root: p.root, include: s.include, exclude: p.exclude, visit: visit}
	return w.from(ctx, &here)
}

// summer makes a digest of entries in the order in which they are visited.
type summer struct {
	h    hash.Hash
	root *Root
	mode mode
	keep bool // owners
	// stale says that the content of a file is not known, because it is not what was read.
	stale bool
}

func (p *Plan) start() *summer {
	s := &summer{h: sha256.New(), root: p.root, mode: p.mode, keep: !p.root.context && !p.owner.given}
	s.text(version, string(p.in.key()))
	return s
}

// key is the instruction without what it is carried out with.
func (in *Instruction) key() []byte {
	type inline struct{ Name string }
	k := struct {
		Add, Parents               bool
		Sources, Exclude           []string
		Inline                     []inline
		Dest, Chown, Chmod, Unpack string
	}{Add: in.Add, Parents: in.Parents, Sources: in.Sources, Exclude: in.Exclude, Dest: in.dest(), Chown: in.Chown, Chmod: in.Chmod}
	for _, i := range in.Inline {
		k.Inline = append(k.Inline, inline{i.Name})
	}
	if in.Unpack != nil {
		k.Unpack = strconv.FormatBool(*in.Unpack)
	}
	text, err := json.Marshal(k)
	if err != nil {
		panic(err) // of these kinds nothing can fail
	}
	return text
}

// text hashes strings so that no two lists give the same bytes.
func (s *summer) text(parts ...string) {
	var n [8]byte
	for _, part := range parts {
		binary.LittleEndian.PutUint64(n[:], uint64(len(part)))
		s.h.Write(n[:])
		io.WriteString(s.h, part)
	}
}

func (s *summer) source(from source) {
	s.text("source", from.name)
	if from.content != nil {
		s.text("content", string(from.content.sum[:]))
	}
}

func (s *summer) entry(e *entry) error {
	uid, gid := uint32(0), uint32(0)
	if s.keep {
		uid, gid = e.st.Uid, e.st.Gid
	}
	s.text(e.rel, fmt.Sprintf("%o %o %d %d", kind(&e.st), s.mode.of(e.st.Mode), uid, gid), e.target)
	switch kind(&e.st) {
	case unix.S_IFREG, unix.S_IFDIR:
		known, ok := s.root.sums.Load(inodeOf(&e.st))
		if !ok {
			s.stale = true
			return nil
		}
		c := known.(sum)
		s.text(string(c[:]))
	case unix.S_IFCHR, unix.S_IFBLK:
		s.text(strconv.FormatUint(uint64(e.st.Rdev), 10))
	}
	return nil
}

func (s *summer) digest() digest.Digest { return digest.NewDigest(digest.SHA256, s.h) }

// hashers read files, several at a time: that takes nearly all of the time of a digest.
type hashers struct {
	root *Root
	ctx  context.Context
	jobs chan []*entry
	next []*entry
	wg   sync.WaitGroup
	mu   sync.Mutex
	err  error
}

const filesAtOnce = 32 // to wake a thread costs as much as to read a small file

func newHashers(ctx context.Context, r *Root) *hashers {
	h := &hashers{root: r, ctx: ctx, jobs: make(chan []*entry, 4)}
	for range workers() {
		h.wg.Go(func() {
			buf := make([]byte, 256<<10)
			for list := range h.jobs {
				for _, e := range list {
					if h.failed() == nil {
						h.fail(h.file(e, buf))
					}
					e.dir.drop()
				}
			}
		})
	}
	return h
}

func workers() int { return max(1, min(4, runtime.GOMAXPROCS(0))) }

// add has a file read, and of a folder the attributes, unless it was before.
func (h *hashers) add(e *entry) error {
	if kind(&e.st) != unix.S_IFREG && !e.isDir() {
		return nil
	}
	if _, known := h.root.sums.Load(inodeOf(&e.st)); known {
		return nil
	}
	e.dir.keep()
	h.next = append(h.next, e)
	if len(h.next) == filesAtOnce {
		h.jobs <- h.next
		h.next = nil
	}
	return h.failed()
}

func (h *hashers) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

func (h *hashers) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
}

func (h *hashers) wait() error {
	if len(h.next) > 0 {
		h.jobs <- h.next
	}
	close(h.jobs)
	h.wg.Wait()
	return h.err
}

// file hashes the content of a file, and its attributes. If it changes meanwhile, what is noted is never found again.
func (h *hashers) file(e *entry, buf []byte) error {
	f, err := e.open()
	if vanished(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", quoted("/"+e.path), err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", quoted("/"+e.path), err)
	}
	if inodeOf(&st) != inodeOf(&e.st) {
		e.st = st // whoever hashes the entry finds what was read
	}
	of := sha256.New()
	switch kind(&st) {
	case unix.S_IFREG:
		_, err = io.CopyBuffer(onlyWriter{of}, io.LimitReader(cancelled{h.ctx, f}, st.Size), buf)
	case unix.S_IFDIR:
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", quoted("/"+e.path), err)
	}
	extended, err := attributesOf(f)
	if err != nil {
		return fmt.Errorf("read attributes of %s: %w", quoted("/"+e.path), err)
	}
	for _, a := range extended {
		fmt.Fprintf(of, "%d %s %d %s", len(a.name), a.name, len(a.value), a.value)
	}
	var c sum
	of.Sum(c[:0])
	h.root.sums.Store(inodeOf(&st), c)
	return nil
}

// open opens a file for reading. What has its name by now may be anything: nothing is waited for, and no link followed.
func (e *entry) open() (*os.File, error) {
	fd, err := unix.Openat(int(e.dir.Fd()), e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), e.path), nil
}

// onlyWriter hides the other methods of a writer, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// cancelled stops reading when the context ends: a file can be long.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c cancelled) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(b)
}

// attribute is an extended attribute that goes with a file into an image.
type attribute struct {
	name  string
	value []byte
}

const maxAttribute = 65536 // xattr(7)

// attributesOf reads the extended attributes of an open file, by name.
func attributesOf(f *os.File) ([]attribute, error) {
	var names [4096]byte
	n, err := unix.Flistxattr(int(f.Fd()), names[:])
	list := names[:max(n, 0)]
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, maxAttribute)
		n, err = unix.Flistxattr(int(f.Fd()), list)
		list = list[:max(n, 0)]
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys := strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00")
	slices.Sort(keys)
	var all []attribute
	for _, key := range keys {
		if !rootfs.BelongsToContent(key) {
			continue
		}
		value := make([]byte, maxAttribute)
		n, err := unix.Fgetxattr(int(f.Fd()), key, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, attribute{key, value[:n:n]})
	}
	return all, nil
}
