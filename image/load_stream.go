package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// seen are the files of an archive that came through a pipe: texts, and layers that are in the change by now.
type seen struct {
	texts  map[string][]byte
	layers map[string]ocispec.Descriptor
	links  map[string]string
	size   int64 // of all texts
}

func (a *seen) find(name string) string {
	name = memberName(name)
	for range maxLinks {
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

func (a *seen) open(name string) (io.ReadCloser, int64, error) {
	if text, ok := a.texts[a.find(name)]; ok {
		return io.NopCloser(bytes.NewReader(text)), int64(len(text)), nil
	}
	return nil, 0, fmt.Errorf("%s is not in the archive: %w", name, fs.ErrNotExist)
}

// stream reads an archive from front to back.
func (in *loading) stream(ctx context.Context, r io.Reader) (*seen, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	raw := newPipe(ctx, r, nil, maxArchive)
	content, _, err := decompressed(ctx, raw)
	if err != nil {
		return nil, err
	}
	a := &seen{texts: map[string][]byte{}, layers: map[string]ocispec.Descriptor{}, links: map[string]string{}}
	end := &zeroCounter{Reader: content}
	t := tar.NewReader(end)
	for n := 0; ; n++ {
		if _, err := io.Copy(io.Discard, t); err != nil { // what nobody wanted to read
			return nil, err
		}
		end.zeros = 0 // now comes less than a block, which fills up the last one, and then a block
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if end.zeros < tarBlock {
				return nil, errCutOff
			}
			return a, drain(content, raw)
		}
		if err == nil && n > maxArchiveFiles {
			err = fmt.Errorf("more than %d files: %w", maxArchiveFiles, unix.EFBIG)
		}
		if err != nil {
			return nil, err
		}
		m, ok := memberOf(h)
		switch {
		case !ok:
		case m.link != "":
			a.links[memberName(h.Name)] = m.link
		default:
			if err := in.member(ctx, a, h, t); err != nil {
				return nil, fmt.Errorf("%s: %w", h.Name, err)
			}
		}
	}
}

// maxArchive is how much may be read from one.
const maxArchive = 1 << 40

// member takes what is of interest out of a stream.
func (in *loading) member(ctx context.Context, a *seen, h *tar.Header, content io.Reader) error {
	name := memberName(h.Name)
	buffered := bufio.NewReaderSize(content, 4096)
	head, err := buffered.Peek(tarBlock)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case looksLikeLayer(head):
		d := ocispec.Descriptor{MediaType: packingOf(head).mediaType, Digest: digestOf(name), Size: h.Size}
		if d.Digest != "" && in.has(d) { // what it holds, its manifest says
			err = nil
			in.tell(shortMember(name), Present, h.Size, h.Size)
		} else {
			d, err = in.loose(ctx, name, h.Size, buffered)
		}
		a.layers[name] = d
		return err
	case looksLikeText(head):
		if a.size += h.Size; h.Size > maxConfig || a.size > maxArchiveTexts {
			return fmt.Errorf("%d bytes of text: %w", a.size, unix.EFBIG)
		}
		a.texts[name], err = io.ReadAll(buffered)
		return err
	}
	return nil // whoever needs it will miss it
}

// digestOf is the digest that a file of a layout has in its name.
func digestOf(name string) digest.Digest {
	hex, ok := strings.CutPrefix(name, "blobs/sha256/")
	if d := digest.Digest("sha256:" + hex); ok && isDigest(d) {
		return d
	}
	return ""
}

// looseLayer is a layer that was unpacked before anybody knew to which image it belongs.
type looseLayer struct {
	ingested
	folder string
}

// loose reads such a layer.
func (in *loading) loose(ctx context.Context, name string, size int64, r io.Reader) (d ocispec.Descriptor, err error) {
	in.looseMu.Lock()
	d, known := in.looseNames[name]
	in.looseMu.Unlock()
	if known {
		return d, nil // several images have it
	}
	o := reading{keep: true, folder: in.c.newFolder(), want: expected{blob: digestOf(name), wrong: ErrContent}}
	if o.form, err = in.formOf(1); err != nil { // with its marks, as if it were not the lowest
		return d, err
	}
	counted := &progressReader{Reader: r, in: in, layer: shortMember(name), size: size}
	l, err := in.c.ingest(ctx, counted, o)
	if err != nil {
		return d, err
	}
	in.tell(shortMember(name), Received, size, size)
	in.looseMu.Lock()
	defer in.looseMu.Unlock()
	in.looseNames[name] = l.blob
	if in.looseLayers[l.blob.Digest] == nil {
		in.looseLayers[l.blob.Digest] = &looseLayer{l, o.folder}
	}
	return l.blob, nil
}

// shortMember is what a layer is called until its digest is known.
func shortMember(name string) string {
	base := path.Base(name)
	if base == "layer.tar" {
		base = path.Base(path.Dir(name))
	}
	return ShortID(strings.TrimSuffix(base, ".tar"))
}

// useLoose makes a layer that was read already layer n of an image, if it can be. What was the lowest and has marks is
// unpacked again, without.
func (in *loading) useLoose(n int, d ocispec.Descriptor, diff, chain digest.Digest) error {
	l := in.looseLayers[d.Digest]
	if l == nil {
		return nil
	}
	if err := (expected{diff: diff, size: d.Size, wrong: ErrContent}).check(l.ingested); err != nil {
		return fmt.Errorf("layer %s: %w", ShortID(string(d.Digest)), err)
	}
	if l.folder == "" || in.unpacked(chain) || n == 0 && l.Marks > 0 {
		return nil
	}
	in.chains[chain] = true
	in.c.layers = append(in.c.layers, &stagedLayer{path.Join(in.c.dir, l.folder), chain})
	l.folder = ""
	return nil
}
