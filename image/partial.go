package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// A layer that is being received is written to
//
//	images/.partial/<hex>   what has come so far, locked by whoever is receiving it
//
// and stays there if that ends before its time, so that the next one goes on where this one stopped. It need not be trusted:
// it is hashed with the rest, and thrown away if the whole is not what it should be.

const partialDir = ".partial"

// partialAge is how long a beginning is kept that nobody has come back for.
const partialAge = 7 * 24 * time.Hour

// partial is a blob that is on its way into the store.
type partial struct {
	path   string
	f      *os.File // holds the lock
	shared bool     // in .partial, and kept for the next one
	drop   bool     // it is worth nothing to anybody
}

// openPartial opens what has come of a blob so far. If somebody else is receiving it, it is a file of the change's own:
// waiting for each other could go round in a circle.
func (c *change) openPartial(d digest.Digest) (*partial, error) {
	dir := c.s.images(partialDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storeError("store layer", err)
	}
	path, shared := filepath.Join(dir, d.Encoded()), true
	f, err := lockNamed(path)
	if errors.Is(err, unix.EWOULDBLOCK) {
		path = filepath.Join(c.dir, d.Encoded()+".part")
		f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
		shared = false
	}
	if err != nil {
		return nil, storeError("store layer", err)
	}
	return &partial{path: path, f: f, shared: shared}, nil
}

// lockNamed opens and locks a file, which is still the one of that name when it is locked; EWOULDBLOCK if somebody has it.
func lockNamed(path string) (*os.File, error) {
	for range 100 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			ours, err := f.Stat()
			now, nowErr := os.Lstat(path)
			if err == nil && nowErr == nil && os.SameFile(ours, now) {
				return f, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, unix.EWOULDBLOCK // it is moved away again and again: somebody is at it
}

// begin says how much there is of a blob, in whole blocks, and forgets the rest.
func (p *partial) begin(size int64) (int64, error) {
	st, err := p.f.Stat()
	if err != nil {
		return 0, storeError("store layer", err)
	}
	n := st.Size()
	if n != size {
		n &^= block - 1
	}
	if n > size {
		n = 0
	}
	if err := p.f.Truncate(n); err != nil {
		return 0, storeError("store layer", err)
	}
	return n, nil
}

// close ends the work on a blob. What is there stays for the next one.
func (p *partial) close() error {
	st, err := p.f.Stat()
	if p.drop || !p.shared || err == nil && st.Size() == 0 {
		if err = os.Remove(p.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return errors.Join(err, p.f.Close())
}

// fetch receives layer n: what is there already from the disk, and the rest from elsewhere. It is hashed and unpacked on the
// way, into <dir>/<folder>.
func (c *change) fetch(ctx context.Context, p *partial, o *Incoming, n int, diff digest.Digest, folder string, form unionfs.Form) (map[string]int, error) {
	d := o.layers[n]
	for {
		have, err := p.begin(d.Size)
		if err != nil {
			return nil, err
		}
		o.report(n, Progress{State: Receiving, Current: have})
		lost, err := c.fetchFrom(ctx, p, o, n, have, expected{blob: d.Digest, diff: diff, size: d.Size, wrong: ErrContent}, folder, form)
		if have == 0 || !errors.Is(err, ErrContent) {
			return lost, err
		}
		// The beginning may be what is wrong, after a crash of the machine, say. Once more, from nothing.
		if err := errors.Join(p.f.Truncate(0), removeTree(filepath.Join(c.dir, folder))); err != nil {
			return nil, storeError("store layer", err)
		}
	}
}

func (c *change) fetchFrom(ctx context.Context, p *partial, o *Incoming, n int, have int64, want expected, folder string, form unionfs.Form) (lost map[string]int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	w, err := newBlobWriter(p.path, have)
	if err != nil {
		cancel()
		return nil, storeError("write blob", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	r := &incomingReader{ctx: ctx, o: o, n: n, left: want.size - have, offset: have}
	// Whoever reads must have ended before the file is closed and what r has seen is looked at.
	tee := &teeReader{io.MultiReader(io.NewSectionReader(p.f, 0, have), io.TeeReader(r, w)), make(chan struct{}), make(chan struct{}, 1)}
	in, err := c.ingest(ctx, tee, reading{folder: folder, form: form, want: want})
	stopped := ctx.Err() != nil
	cancel()
	tee.stop()
	r.close()
	var flushErr error
	if !stopped { // whoever wants to stop does not wait for the disk, for the sake of a megabyte
		flushErr = w.finish()
	}
	var errno unix.Errno
	switch {
	case r.err != nil && !errors.Is(r.err, io.EOF) && (stopped || !errors.Is(r.err, context.Canceled)):
		err = r.err // and not what became of it in the hands of tar and gzip
	case flushErr != nil:
		err = storeError("write blob", flushErr)
	case err != nil && !stopped && !errors.As(err, &errno) && !errors.Is(err, ErrContent):
		err = &contentError{err} // neither the line nor the disk is to blame
	}
	p.drop = errors.Is(err, ErrContent) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) // and room is made
	return in.lost, err
}

// contentError is a layer that cannot be unpacked.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

// Is makes it [ErrContent].
func (e *contentError) Is(target error) bool { return target == ErrContent }

// teeReader is a reader that can be stopped: after stop nobody is in Read, and nobody gets in any more.
type teeReader struct {
	r       io.Reader
	stopped chan struct{}
	busy    chan struct{}
}

func (t *teeReader) Read(b []byte) (int, error) {
	t.busy <- struct{}{}
	defer func() { <-t.busy }()
	select {
	case <-t.stopped:
		return 0, context.Canceled
	default:
		return t.r.Read(b)
	}
}

func (t *teeReader) stop() {
	close(t.stopped)
	t.busy <- struct{}{}
}

// incomingReader reads a blob from elsewhere, opened when it is first needed: exactly as much as was announced.
type incomingReader struct {
	ctx          context.Context
	o            *Incoming
	n            int
	offset, left int64
	r            io.ReadCloser
	err          error
}

func (i *incomingReader) Read(b []byte) (n int, err error) {
	if i.err != nil {
		return 0, i.err
	}
	if i.left == 0 && i.r == nil { // it was all here
		i.err = io.EOF
		return 0, i.err
	}
	if i.r == nil {
		r, err := i.o.Open(i.ctx, i.o.layers[i.n], i.offset)
		if i.err = err; err != nil {
			return 0, err
		}
		i.r = r
	}
	if i.left == 0 { // it should end here
		b = b[:min(len(b), 1)]
	}
	n, err = i.r.Read(b[:min(int64(len(b)), max(i.left, 1))])
	size := i.o.layers[i.n].Size
	switch {
	case int64(n) > i.left:
		n, err = 0, fmt.Errorf("it has more than the %d bytes that were announced: %w", size, ErrContent)
	case errors.Is(err, io.EOF) && i.left > int64(n):
		err = fmt.Errorf("it ends after %d of %d bytes: %w", i.offset+int64(n), size, io.ErrUnexpectedEOF)
	}
	i.offset, i.left, i.err = i.offset+int64(n), i.left-int64(n), err
	i.o.report(i.n, Progress{State: Receiving, Current: i.offset})
	return n, err
}

func (i *incomingReader) close() {
	if i.r != nil {
		i.r.Close()
	}
}

// dropPartials removes beginnings of blobs that nobody is receiving: those that nobody has touched since.
func (s *Store) dropPartials(since time.Time) (freed int64) {
	entries, _ := os.ReadDir(s.images(partialDir))
	for _, e := range entries {
		path := s.images(partialDir, e.Name())
		st, err := os.Lstat(path)
		if err != nil || st.ModTime().After(since) {
			continue
		}
		f, err := lockNamed(path)
		if err != nil {
			continue
		}
		if os.Remove(path) == nil {
			freed += st.Size()
		}
		f.Close()
	}
	return freed
}

// checkLayerDescriptor refuses what no layer can be.
func checkLayerDescriptor(d ocispec.Descriptor) error {
	if !isDigest(d.Digest) {
		return fmt.Errorf("layer %q: only sha256 digests are known: %w", d.Digest, ErrContent)
	}
	if d.Size <= 0 || d.Size > maxLayer {
		return fmt.Errorf("layer %s: a size of %d bytes: %w", ShortID(string(d.Digest)), d.Size, ErrContent)
	}
	return nil
}
