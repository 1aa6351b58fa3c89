package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/course/evidence"
)

// What the steps look at: the files of the store, read as anybody could who has only the specification.

// picture is an image as its files tell it.
type picture struct {
	Descriptor ocispec.Descriptor // of the manifest, as index.json has it
	Manifest   ocispec.Manifest
	Config     ocispec.Image
}

func (p place) store() string  { return filepath.Join(p.dir, "disk/root/images") }
func (p place) layers() string { return filepath.Join(p.dir, "disk/root/layers") }

// blob is the file of a digest.
func (p place) blob(digest string) string {
	return filepath.Join(p.store(), "blobs/sha256", strings.TrimPrefix(digest, "sha256:"))
}

// look follows the digests from a name: index, manifest, config.
func (p place) look(name string) (*picture, error) {
	var index ocispec.Index
	if err := readJSON(filepath.Join(p.store(), "index.json"), &index); err != nil {
		return nil, err
	}
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] != name+":latest" {
			continue
		}
		i := &picture{Descriptor: d}
		if err := readJSON(p.blob(d.Digest.String()), &i.Manifest); err != nil {
			return nil, err
		}
		return i, readJSON(p.blob(i.Manifest.Config.Digest.String()), &i.Config)
	}
	return nil, fmt.Errorf("look for %s in index.json: %w", name, fs.ErrNotExist)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// id is what people call the image's id.
func (i *picture) id() string { return i.Manifest.Config.Digest.String() }

// blobs are the digests of everything that the image is made of: manifest, config, layers.
func (i *picture) blobs() []string {
	list := []string{i.Descriptor.Digest.String(), i.id()}
	for _, l := range i.Manifest.Layers {
		list = append(list, l.Digest.String())
	}
	return list
}

// chain is the chain id of the layer with that number, counted from 0: the digest of all layers up to it. See config.md.
func (i *picture) chain(n int) string {
	id := i.Config.RootFS.DiffIDs[0].String()
	for _, diff := range i.Config.RootFS.DiffIDs[1 : n+1] {
		id = digestOf([]byte(id + " " + diff.String()))
	}
	return id
}

// folder is where a layer lies unpacked.
func (p place) folder(chain string) string {
	return filepath.Join(p.layers(), strings.TrimPrefix(chain, "sha256:"), "diff")
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// fileDigest is the digest of a file's content, or why it has none.
func fileDigest(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return evidence.Answer(err)
	}
	return digestOf(data)
}

// short is as much of a digest as people read.
func short(digest string) string {
	hexes := strings.TrimPrefix(digest, "sha256:")
	return hexes[:min(12, len(hexes))]
}

func shorts(digests []string) string {
	var list []string
	for _, d := range digests {
		list = append(list, short(d))
	}
	return strings.Join(list, " ")
}

// unpacked opens a layer's blob as the tar that it is.
func (p place) unpacked(d ocispec.Descriptor) (io.ReadCloser, error) {
	data, err := os.ReadFile(p.blob(d.Digest.String()))
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasSuffix(d.MediaType, "gzip"):
		return gzip.NewReader(bytes.NewReader(data))
	case strings.HasSuffix(d.MediaType, "zstd"):
		r, err := zstd.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// diffID is the digest of a layer's tar, whatever it is packed with.
func (p place) diffID(d ocispec.Descriptor) (string, error) {
	r, err := p.unpacked(d)
	if err != nil {
		return "", err
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// entries are the names in a layer's tar, sorted; folders end with a slash.
func (p place) entries(d ocispec.Descriptor) ([]string, error) {
	r, err := p.unpacked(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var names []string
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		names = append(names, strings.TrimPrefix(h.Name, "./"))
	}
}

// fingerprint is a digest over all files below a folder: names, modes, owners, contents, where links lead.
func fingerprint(dir string) (digest string, count int, err error) {
	var text strings.Builder
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		content := ""
		switch {
		case info.Mode().IsRegular():
			content = fileDigest(path)
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		count++
		fmt.Fprintf(&text, "%s %o %d %d %d %s\n", strings.TrimPrefix(path, dir), st.Mode, st.Uid, st.Gid, st.Rdev, content)
		return nil
	})
	return digestOf([]byte(text.String())), count, err
}

// list names what is in a folder, "–" if there is nothing in it.
func list(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return evidence.Answer(err)
	}
	if len(entries) == 0 {
		return "–"
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// folderSize is how many bytes the files below a folder have.
func folderSize(dir string) (sum int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}
