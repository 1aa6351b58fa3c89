package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// A layer is read once. On its way it is written down as it came, hashed as it came and, decompressed, as it is, and its
// files are made. Each of these has a goroutine, since none of them waits for the same thing.

// layerInfo is what is known about an unpacked layer: layer.json beside it.
type layerInfo struct {
	DiffID  digest.Digest `json:"diffId"`
	Size    int64         `json:"size"`          // of its files
	Tar     int64         `json:"tar,omitempty"` // size of the tar, which is not packed
	Entries int           `json:"entries"`
	Marks   int           `json:"marks"`            // whiteouts and opaque folders
	Opaque  bool          `json:"opaque,omitempty"` // it hides all layers below; overlay does not look for that in a layer's root
	Form    unionfs.Form  `json:"form"`             // of the marks in diff
	Boot    string        `json:"boot,omitempty"`   // in which it was written, until it is known to be on the disk
}

const layerFile = "layer.json"

// noMarks is the form of the lowest layer, which has nothing to take away.
const noMarks unionfs.Form = ""

// expected is what a layer must be. What is empty is not asked for.
type expected struct {
	blob, diff digest.Digest
	size       int64 // of the blob
	wrong      error // what it is if it is something else; nil: ErrCorrupt
}

// ingested is a layer that was read.
type ingested struct {
	layerInfo
	blob ocispec.Descriptor
	lost map[string]int
}

// Limits of a layer. The size is that of the tar; see also [rootfs.TheLimits].
const (
	maxLayer = 72 << 30
	// What compresses better than this, when there is much of it, is not files but an attempt to fill the disk.
	maxRatio  = 200
	freeRatio = 1 << 30 // this much may be all zeros
)

// reading is what is to become of a layer that is read.
type reading struct {
	keep   bool   // it is stored as a blob
	folder string // where it is unpacked, below the change's folder; empty: it is only checked
	form   unionfs.Form
	want   expected

	settled bool // it will be on the disk before it gets its name
}

// ingest reads a layer from r. Several can be read at a time.
func (c *change) ingest(ctx context.Context, r io.Reader, o reading) (in ingested, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var blob *blobWriter
	var copyTo io.Writer
	name := ""
	if o.keep {
		name = filepath.Join(c.dir, fmt.Sprintf("blob-%d", c.number.Add(1)))
		if blob, err = newBlobWriter(name, 0); err != nil {
			return in, storeError("write blob", err)
		}
		defer func() { err = errors.Join(err, blob.Close()) }()
		copyTo = blob
	}
	raw := newPipe(ctx, r, copyTo, maxLayer)
	content, packing, err := decompressed(ctx, raw)
	if err != nil {
		return in, err
	}
	u := rootfs.Unpacked{Ended: true}
	if o.folder != "" {
		u, err = c.unpack(ctx, content, o.folder, o.form)
	}
	if err == nil {
		err = drain(content, raw) // behind the end mark: padding, and what the checksums are of
	}
	if errors.Is(err, tar.ErrHeader) {
		err = fmt.Errorf("this is no tar archive: %w", err)
		// One that was changed on the way is better told by its digest than by what became of it.
		if o.want.blob != "" && drain(raw) == nil {
			in.blob = ocispec.Descriptor{Digest: raw.digest(), Size: raw.size}
			err = cmp.Or(expected{size: o.want.size, blob: o.want.blob, wrong: o.want.wrong}.check(in), err)
		}
	}
	if err != nil {
		return in, err
	}
	in.blob = ocispec.Descriptor{MediaType: packing.mediaType, Digest: raw.digest(), Size: raw.size}
	in.lost = u.Lost
	in.layerInfo = layerInfo{
		DiffID: content.digest(), Tar: content.size, Size: u.Bytes, Entries: u.Files + u.Folders + u.Links, Marks: u.Marks, Opaque: u.Opaque, Form: o.form,
	}
	if err := o.want.check(in); err != nil {
		return in, err
	}
	if !u.Ended && o.want.diff == "" {
		return in, errCutOff
	}
	if !o.settled {
		in.Boot = bootID()
	}
	if o.folder != "" {
		err = c.writeInfo(o.folder, in.layerInfo)
	}
	if err == nil && o.keep {
		err = blob.finish()
	}
	if err == nil && o.keep {
		err = c.stage(name, in.blob.Digest)
	}
	return in, storeError("store layer", err)
}

// writeInfo writes what says that an unpacked layer is whole.
func (c *change) writeInfo(folder string, info layerInfo) error {
	text, err := json.Marshal(info)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, folder, layerFile), text, 0o600)
	}
	return err
}

func (e expected) check(in ingested) error {
	wrong := e.wrong
	if wrong == nil {
		wrong = ErrCorrupt
	}
	switch {
	case e.size != 0 && e.size != in.blob.Size:
		return fmt.Errorf("layer has %d bytes, %d were announced: %w", in.blob.Size, e.size, wrong)
	case e.blob != "" && e.blob != in.blob.Digest:
		return fmt.Errorf("layer is %s, not %s: %w", in.blob.Digest, e.blob, wrong)
	case e.diff != "" && e.diff != in.DiffID:
		return fmt.Errorf("the layer's content is %s, not %s: %w", in.DiffID, e.diff, wrong)
	}
	return nil
}

// unpack makes the files of a layer.
func (c *change) unpack(ctx context.Context, content io.Reader, folder string, form unionfs.Form) (u rootfs.Unpacked, err error) {
	diff := filepath.Join(c.dir, folder, "diff")
	if err := os.MkdirAll(diff, 0o700); err != nil {
		return u, storeError("store layer", err)
	}
	// Its own mode, where the layer says nothing of it: what a container's "/" has.
	if err := os.Chmod(diff, 0o755); err != nil {
		return u, storeError("store layer", err)
	}
	tree, err := rootfs.OpenTree(ctx, diff)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	var marker rootfs.Marker
	if form != noMarks {
		marker = form.Marker()
	}
	return rootfs.UnpackLayer(ctx, tree, content, marker, rootfs.TheLimits())
}

func drain(streams ...io.Reader) error {
	for _, r := range streams {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	return nil
}

// packing is how the bytes of a layer are packed.
type packing struct {
	magic     string
	mediaType string
	name      string // of the program that unpacks it, where we do not
}

// packings begins with what the image specification has a media type for.
func packings() []packing {
	return []packing{
		{magic: "\x1f\x8b", mediaType: ocispec.MediaTypeImageLayerGzip},
		{magic: "\x28\xb5\x2f\xfd", mediaType: ocispec.MediaTypeImageLayerZstd},
		{magic: "BZh", name: "bzip2"},
		{magic: "\xfd7zXZ\x00", name: "xz"},
		{magic: "\x04\x22\x4d\x18", name: "lz4"},
		{magic: "PK\x03\x04", name: "zip"},
	}
}

// packingOf tells how something is packed that begins like this.
func packingOf(head []byte) packing {
	for _, p := range packings() {
		if bytes.HasPrefix(head, []byte(p.magic)) {
			return p
		}
	}
	return packing{mediaType: ocispec.MediaTypeImageLayer}
}

// PackingError is an archive that is packed in a way that no layer is.
type PackingError struct{ Name string }

func (e *PackingError) Error() string {
	return "the archive is packed with " + e.Name + ", and only gzip and zstd are known"
}

// decompressed reads through raw what is packed there.
func decompressed(ctx context.Context, raw *pipe) (*pipe, packing, error) {
	in := bufio.NewReaderSize(raw, 64<<10)
	head, err := in.Peek(6)
	if len(head) == 0 {
		if errors.Is(err, io.EOF) {
			err = errors.New("the archive is empty")
		}
		return nil, packing{}, err
	}
	for _, p := range packings() {
		if !bytes.HasPrefix(head, []byte(p.magic)) {
			continue
		}
		var out io.Reader
		switch p.mediaType {
		case ocispec.MediaTypeImageLayerGzip:
			out, err = gzip.NewReader(in)
		case ocispec.MediaTypeImageLayerZstd:
			// The window is memory that the archive decides on; 128 MB are what zstd itself takes without being asked.
			out, err = zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true))
		default:
			return nil, p, &PackingError{p.name}
		}
		if err != nil {
			return nil, p, fmt.Errorf("unpack the archive: %w", err)
		}
		content := newPipe(ctx, &ratioLimit{r: out, packed: raw}, nil, maxLayer)
		return content, p, nil
	}
	// Nothing is packed, so there is one stream and one digest. What was peeked at must still be read from the front.
	raw.unread(in)
	return raw, packing{mediaType: ocispec.MediaTypeImageLayer}, nil
}

// ratioLimit stops what grows too much.
type ratioLimit struct {
	r      io.Reader
	n      int64
	packed *pipe
}

func (l *ratioLimit) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.n += int64(n); l.n > freeRatio && l.n/maxRatio > l.packed.read.Load() {
		return n, fmt.Errorf("the archive grows more than %d times when it is unpacked: no files do", maxRatio)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("unpack the archive: %w", err)
	}
	return n, err
}

// Close gives back what a decompressor has.
func (l *ratioLimit) Close() error {
	if d, ok := l.r.(*zstd.Decoder); ok {
		d.Close()
	}
	return nil
}

func newHash() hash.Hash { return sha256.New() }

func hexDigest(h hash.Hash) digest.Digest {
	return digest.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}
