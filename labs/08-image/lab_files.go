package image

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/course"
)

// digests: an image is a tree of files, and each is called by what it holds.
func digests(t *course.T) error {
	p, err := newApp(t)
	if err != nil {
		return err
	}
	i, err := p.look(appName)
	if err != nil {
		return err
	}
	t.See("index.json: %s is manifest %s", appName, short(i.Descriptor.Digest.String()))
	t.See("the manifest names config %s and %d layers", short(i.id()), len(i.Manifest.Layers))
	right := 0
	for _, digest := range i.blobs() {
		if fileDigest(p.blob(digest)) == digest {
			right++
		}
	}
	t.Equal(len(i.blobs()), right, "each file's SHA-256, computed here, is its name")

	data, err := os.ReadFile(p.blob(i.id()))
	if err != nil {
		return err
	}
	other := bytes.Replace(data, []byte("World"), []byte("world"), 1)
	t.See("one letter of the config changed: %s → %s", short(digestOf(data)), short(digestOf(other)))
	t.Check(digestOf(other) != i.id(), "another than "+short(i.id()), short(digestOf(other)), "another content has another digest, so another name")
	manifest, err := os.ReadFile(p.blob(i.Descriptor.Digest.String()))
	if err != nil {
		return err
	}
	above := bytes.Replace(manifest, []byte(strings.TrimPrefix(i.id(), "sha256:")), []byte(strings.TrimPrefix(digestOf(other), "sha256:")), 1)
	t.See("so the manifest must name another config, and is another too: %s → %s", short(digestOf(manifest)), short(digestOf(above)))
	t.Check(digestOf(above) != digestOf(manifest), "another than "+short(digestOf(manifest)), short(digestOf(above)), "who has the topmost digest has them all")
	return nil
}

// chain: three names for one layer.
func chain(t *course.T) error {
	p, err := newApp(t)
	if err != nil {
		return err
	}
	i, err := p.look(appName)
	if err != nil {
		return err
	}
	diffs := 0
	for n, d := range i.Manifest.Layers {
		diff, err := p.diffID(d)
		if err != nil {
			return err
		}
		if diff == i.Config.RootFS.DiffIDs[n].String() {
			diffs++
		}
		t.See("layer %d: blob %s, diff id %s, chain %s", n, short(d.Digest.String()), short(diff), short(i.chain(n)))
	}
	t.Equal(len(i.Manifest.Layers), diffs, "a diff id is the digest of the layer's tar, unpacked")
	top := len(i.Config.RootFS.DiffIDs) - 1
	if err := packed(t, p, i.Manifest.Layers[top]); err != nil {
		return err
	}
	below, diff := i.chain(top-1), i.Config.RootFS.DiffIDs[top].String()
	t.See("SHA-256 of \"%s… %s…\" is %s", short(below), short(diff), short(digestOf([]byte(below+" "+diff))))
	folders := 0
	for _, chain := range chains(i) {
		if isFolder(p.folder(chain)) {
			folders++
		}
	}
	t.Equal(len(i.Manifest.Layers), folders, "each layer lies unpacked in a folder of that name")
	swapped := digestOf([]byte(diff + " " + below))
	t.Check(swapped != i.chain(top), "another than "+short(i.chain(top)), short(swapped), "the same layers in another order are another chain")
	return nil
}

// packed shows that one content can be packed in several ways.
func packed(t *course.T, p place, layer ocispec.Descriptor) error {
	r, err := p.unpacked(layer)
	if err != nil {
		return err
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	var blobs, contents []string
	for _, level := range []int{gzip.BestSpeed, gzip.BestCompression} {
		var blob bytes.Buffer
		w, err := gzip.NewWriterLevel(&blob, level)
		if err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		blobs = append(blobs, digestOf(blob.Bytes()))
		back, err := gzip.NewReader(&blob)
		if err != nil {
			return err
		}
		same, err := io.ReadAll(back)
		if err != nil {
			return err
		}
		contents = append(contents, digestOf(same))
	}
	t.See("packed by gzip -1: %s, by gzip -9: %s; unpacked again: %s", short(blobs[0]), short(blobs[1]), shorts(contents))
	t.Check(blobs[0] != blobs[1], "another than "+short(blobs[0]), short(blobs[1]), "packed in two ways the layer is two blobs")
	t.Check(contents[0] == digestOf(content) && contents[1] == contents[0], short(digestOf(content)), shorts(contents), "with one diff id")
	return nil
}
