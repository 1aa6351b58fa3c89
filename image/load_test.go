package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// saved writes images in a form, and returns the archive.
func saved(t *testing.T, s *Store, f Format, refs ...string) []byte {
	t.Helper()
	sv, err := s.Save(refs, f)
	must(t, err)
	defer sv.Close()
	var buf bytes.Buffer
	must(t, sv.Write(t.Context(), &buf))
	return buf.Bytes()
}

// pipeOf hides that a reader can seek.
func pipeOf(data []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(data)} }

func fileOf(t *testing.T, data []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive")
	must(t, os.WriteFile(name, data, 0o600))
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// described tells what a store has: names, id and files of each image.
func described(t *testing.T, s *Store) string {
	t.Helper()
	list, err := s.List()
	must(t, err)
	var all []string
	for _, i := range list {
		dirs, err := s.Layers(t.Context(), i, unionfs.Overlay)
		must(t, err)
		text := fmt.Sprint(i.Names, ShortID(i.ID))
		for _, d := range dirs {
			text += " {" + raw(t, d) + "}"
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// raw lists what is in a layer's folder, marks as well.
func raw(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text := []byte("(" + e.Type().String() + ")")
		if e.Type().IsRegular() {
			text, err = os.ReadFile(name)
		}
		rel, _ := filepath.Rel(dir, name)
		all = append(all, rel+"="+string(text))
		return err
	}))
	return strings.Join(all, " ")
}

// someImages are images with layers in common, packed in all ways.
func someImages(t *testing.T) *Store {
	s := newStore(t)
	base := commit(t, s, nil, tarOf(t, file{"a", "1"}, file{"d/x", "1"}), "base")
	top := commit(t, s, base, gzipped(t, tarOf(t, file{"b", "2"}, file{".wh.a", ""})), "top:v1", "top:v2")
	commit(t, s, top, zstded(t, tarOf(t, file{"d/.wh..wh..opq", ""}, file{"d/y", "3"})), "host:5000/p/q:r")
	commit(t, s, top, tarOf(t)) // a layer of nothing, and no name
	_, err := s.Commit(t.Context(), top, nil, CommitOptions{Names: []string{"only-config"}, Changes: []string{"ENV A=b"}})
	must(t, err)
	return s
}

// TestSaveLoad: what was saved is loaded as it was, in every form and on every way.
func TestSaveLoad(t *testing.T) {
	s := someImages(t)
	want := described(t, s)
	list, err := s.List()
	must(t, err)
	var refs []string
	for _, i := range list {
		refs = append(refs, i.ID)
		refs = append(refs, i.Names...)
	}
	for _, f := range []Format{DockerArchive, OCIArchive} {
		data := saved(t, s, f, refs...)
		if !bytes.Equal(data, saved(t, s, f, refs...)) {
			t.Errorf("%s: the same images are not the same bytes", f)
		}
		for way, r := range map[string]io.Reader{
			"file": fileOf(t, data), "pipe": pipeOf(data), "gzip": pipeOf(gzipped(t, data)), "zstd": fileOf(t, zstded(t, data)),
		} {
			to := newStore(t)
			for range 2 { // the second time, all is there
				loaded, err := to.Load(t.Context(), r, nil)
				if err != nil || len(loaded) < len(list) {
					t.Fatalf("%s, %s: %d images, %v", f, way, len(loaded), err)
				}
				if got := described(t, to); got != want {
					t.Errorf("%s, %s:\n%s\nwant\n%s", f, way, got, want)
				}
				for _, i := range list {
					same, err := to.Resolve(i.ID)
					must(t, err)
					mixed := f == DockerArchive && len(i.Chain()) > 1 // packed and not packed layers
					if (same.Digest != i.Digest) != mixed {
						t.Errorf("%s, %s: manifest of %s is %s, was %s", f, way, i.Names, same.Digest, i.Digest)
					}
				}
				if seeker, ok := r.(io.Seeker); ok {
					seeker.Seek(0, io.SeekStart)
				} else {
					r = pipeOf(data)
				}
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "layout")
	sv, err := s.Save(refs, OCIDir)
	must(t, err)
	must(t, errors.Join(sv.WriteFolder(t.Context(), dir), sv.Close()))
	in, err := os.Open(dir)
	must(t, err)
	defer in.Close()
	to := newStore(t)
	_, err = to.Load(t.Context(), in, nil)
	must(t, err)
	if got := described(t, to); got != want {
		t.Errorf("folder:\n%s\nwant\n%s", got, want)
	}
	if err := sv.WriteFolder(t.Context(), dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("into a folder that is not empty: %v", err)
	}
	// The store is a layout, too, and so is what has come to another one.
	for _, dir := range []string{dir, s.images(), to.images()} {
		idx, err := layout.ImageIndexFromPath(dir)
		must(t, err)
		if err := validate.Index(idx, validate.Fast); err != nil { // not Fast, it takes all layers for packed
			t.Errorf("layout %s: %v", dir, err)
		}
	}
}

// TestLayout: go-containerregistry reads the store, every byte of it.
func TestLayout(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, nil, gzipped(t, tarOf(t, file{"a", "1"})), "base")
	commit(t, s, base, gzipped(t, tarOf(t, file{"b", "2"})), "top:v1", "top:v2")
	idx, err := layout.ImageIndexFromPath(s.images())
	must(t, err)
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	must(t, os.WriteFile(s.blobPath(base.Descriptors()[0].Digest), []byte("x"), 0o600))
	if validate.Index(idx) == nil {
		t.Error("it would also take a broken one")
	}
}

// TestSaveReads: go-containerregistry, which reads as Docker and skopeo do, finds each image by its name.
func TestSaveReads(t *testing.T) {
	s := someImages(t)
	f := fileOf(t, saved(t, s, DockerArchive, "base", "top", "host:5000/p/q:r"))
	for _, ref := range []string{"base:latest", "top:v1", "top:v2", "host:5000/p/q:r"} {
		tag, err := name.NewTag(ref)
		must(t, err)
		i, err := tarball.ImageFromPath(f.Name(), &tag)
		must(t, err)
		if err := validate.Image(i); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		ours, err := s.Resolve(ref)
		must(t, err)
		if id, err := i.ConfigName(); err != nil || id.String() != ours.ID {
			t.Errorf("%s is %s, %v; want %s", ref, id, err, ours.ID)
		}
	}
}

// TestSaveZstd: Docker's form has no layer that Docker 20.10 cannot read, and the image is the same one; a layout has them as
// they are.
func TestSaveZstd(t *testing.T) {
	s := newStore(t)
	i := commit(t, s, nil, zstded(t, tarOf(t, file{"a", strings.Repeat("1", 1000)})), "z")
	for f, want := range map[Format]bool{DockerArchive: false, OCIArchive: true} {
		data := saved(t, s, f, "z")
		if got := bytes.Contains(data, []byte("\x28\xb5\x2f\xfd")); got != want {
			t.Errorf("%s: zstd in it: %v; want %v", f, got, want)
		}
		to := newStore(t)
		loaded, err := to.Load(t.Context(), pipeOf(data), nil)
		if err != nil || len(loaded) != 1 || loaded[0].ID != i.ID || (loaded[0].Digest == i.Digest) != want {
			t.Errorf("%s: loaded %v, %v; want image %s", f, loaded, err, i.ID)
		}
	}
}

// TestSaveRefs: a name without a tag means all its tags, an id no name, and what is missing nothing at all.
func TestSaveRefs(t *testing.T) {
	s := someImages(t)
	top, err := s.Resolve("top:v1")
	must(t, err)
	for refs, want := range map[string]string{
		"top": "[[top:v1 top:v2]]", "top:v2": "[[top:v2]]", "top:v1 base top:v1": "[[top:v1] [base:latest]]", top.ID: "[[]]",
		"top:v1 " + ShortID(top.ID): "[[top:v1]]", "docker.io/library/top:v1": "[[top:v1]]",
	} {
		sv, err := s.Save(strings.Fields(refs), DockerArchive)
		must(t, err)
		var names [][]string
		for _, l := range sv.list() {
			names = append(names, l.RepoTags)
		}
		if got := fmt.Sprint(names); got != want {
			t.Errorf("save %s: %s; want %s", refs, got, want)
		}
		must(t, sv.Close())
	}
	for refs, want := range map[string]error{"top:v1 nosuch": ErrNotFound, "Bad": ErrReference} {
		if _, err := s.Save(strings.Fields(refs), DockerArchive); !errors.Is(err, want) {
			t.Errorf("save %s: %v; want %v", refs, err, want)
		}
	}
	if _, err := newStore(t).Save([]string{"x"}, DockerArchive); !errors.Is(err, ErrNotFound) {
		t.Errorf("save from a store that is not there: %v", err)
	}
	// What is not what its digest says is found out before somebody relies on it.
	blob := s.blobPath(top.Descriptors()[0].Digest)
	must(t, os.WriteFile(blob, make([]byte, top.Descriptors()[0].Size), 0o600))
	sv, err := s.Save([]string{"top"}, DockerArchive)
	must(t, err)
	defer sv.Close()
	if err := sv.Write(t.Context(), io.Discard); !errors.Is(err, ErrCorrupt) {
		t.Errorf("save of a broken layer: %v", err)
	}
}

// TestLoadForeign: archives that others make.
func TestLoadForeign(t *testing.T) {
	one, err := random.Image(3000, 3)
	must(t, err)
	two, err := random.Image(2000, 2)
	must(t, err)
	tag := func(ref string) name.Tag {
		n, err := name.NewTag(ref)
		must(t, err)
		return n
	}
	var buf bytes.Buffer
	must(t, tarball.MultiWrite(map[name.Tag]v1.Image{tag("one:v1"): one, tag("two:v2"): two}, &buf))
	dir := t.TempDir()
	p, err := layout.Write(dir, indexOf(t, one, two))
	must(t, err)
	must(t, p.AppendImage(two, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "two:again"})))
	folder, err := os.Open(dir)
	must(t, err)
	defer folder.Close()
	for way, c := range map[string]struct {
		r    io.Reader
		want int
	}{
		"file": {fileOf(t, buf.Bytes()), 2}, "pipe": {pipeOf(buf.Bytes()), 2}, "folder": {folder, 2},
	} {
		s := newStore(t)
		list, err := s.Load(t.Context(), c.r, nil)
		if err != nil || len(list) != c.want {
			t.Fatalf("%s: %d images, %v; want %d", way, len(list), err, c.want)
		}
		for _, i := range []v1.Image{one, two} {
			id, err := i.ConfigName()
			must(t, err)
			if _, err := s.Resolve(id.String()); err != nil {
				t.Errorf("%s: %v", way, err)
			}
		}
		for _, i := range list {
			if dirs, err := s.Layers(t.Context(), i, unionfs.Overlay); err != nil || len(dirs) != len(i.Chain()) {
				t.Errorf("%s: layers %v, %v", way, dirs, err)
			}
		}
		idx, err := layout.ImageIndexFromPath(s.images())
		must(t, err)
		if err := validate.Index(idx); err != nil {
			t.Errorf("%s: %v", way, err)
		}
	}
}

func indexOf(t *testing.T, images ...v1.Image) v1.ImageIndex {
	t.Helper()
	p, err := layout.Write(t.TempDir(), empty.Index)
	must(t, err)
	for _, i := range images {
		must(t, p.AppendImage(i))
	}
	idx, err := p.ImageIndex()
	must(t, err)
	return idx
}

// parts are the files of an archive that a test makes by hand.
type parts map[string][]byte

func (p parts) tar(t *testing.T) []byte {
	t.Helper()
	var headers []tar.Header
	names := slices.Sorted(maps.Keys(p))
	for _, n := range names {
		h := tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(p[n]))}
		if to, ok := strings.CutPrefix(string(p[n]), "->"); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		}
		headers = append(headers, h)
	}
	return tarWith(t, headers, func(n int) string { return string(p[names[n]]) })
}

func text(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}

// put stores a blob in an archive's layout.
func (p parts) put(data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	p[blobName(d.Digest)] = data
	return d
}

// layoutOf makes an OCI layout of one image; change may spoil it on the way.
func layoutOf(t *testing.T, change func(p parts, m *ocispec.Manifest, c *ocispec.Image)) parts {
	p := parts{}
	layer := tarOf(t, file{"a", "1"})
	l := p.put(layer)
	l.MediaType = ocispec.MediaTypeImageLayer
	c := &ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.Digest}}}
	m := &ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{l}}
	m.SchemaVersion = 2
	if change != nil {
		change(p, m, c)
	}
	if m.Config.Digest == "" {
		m.Config = p.put(text(t, c))
		m.Config.MediaType = ocispec.MediaTypeImageConfig
	}
	d := p.put(text(t, m))
	d.MediaType, d.Annotations = m.MediaType, map[string]string{ocispec.AnnotationRefName: "bad"}
	p[ocispec.ImageIndexFile] = text(t, ocispec.Index{Manifests: []ocispec.Descriptor{d}})
	return p
}

// TestLoadOld: what older Dockers and Podman write: configs and layers under other names, links between them, chains.
func TestLoadOld(t *testing.T) {
	layer := tarOf(t, file{"a", "1"})
	config := text(t, ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer), digest.FromBytes(layer)}}})
	list := text(t, []listed{{Config: "c.json", RepoTags: []string{"old:v1"}, Layers: []string{"1/layer.tar", "2/layer.tar"}}})
	id1, id2 := strings.Repeat("1", 64), strings.Repeat("2", 64)
	for name, c := range map[string]struct {
		p    parts
		want string
	}{
		"links":   {parts{"c.json": config, "./1/layer.tar": layer, "2/layer.tar": []byte("->../1/layer.tar"), "manifest.json": list}, "{a=1} {a=1}"},
		"forward": {parts{"c.json": config, "1/layer.tar": []byte("->../z.tar"), "2/layer.tar": []byte("->../1/layer.tar"), "z.tar": layer, "manifest.json": list}, "{a=1} {a=1}"},
		"packed":  {parts{"c.json": config, "1/layer.tar": gzipped(t, layer), "2/layer.tar": zstded(t, layer), "manifest.json": list}, "{a=1} {a=1}"},
		"chain": {parts{
			id1 + "/json": []byte(`{"id":"` + id1 + `","created":"2015-01-02T03:04:05Z","os":"linux"}`), id1 + "/layer.tar": layer,
			id2 + "/json": []byte(`{"id":"` + id2 + `","parent":"` + id1 + `","config":{"Env":["A=b"]},"container_config":{"Cmd":["sh"]}}`), id2 + "/layer.tar": tarOf(t, file{"b", "2"}, file{".wh.a", ""}),
			"repositories": []byte(`{"old":{"v1":"` + id2 + `"}}`)}, "{a=(Dc---------) b=2} {a=1}"},
	} {
		for way, r := range map[string]io.Reader{"file": fileOf(t, c.p.tar(t)), "pipe": pipeOf(c.p.tar(t))} {
			s := newStore(t)
			if _, err := s.Load(t.Context(), r, nil); err != nil {
				t.Errorf("%s, %s: %v", name, way, err)
				continue
			}
			if got := described(t, s); !strings.HasPrefix(got, "[old:v1]") || !strings.HasSuffix(got, c.want) {
				t.Errorf("%s, %s: %s; want %s", name, way, got, c.want)
			}
			i, err := s.Resolve("old:v1")
			must(t, err)
			if name == "chain" && (len(i.Config.History) != 2 || i.Config.History[1].CreatedBy != "sh" || len(i.Config.Config.Env) != 1 || i.Config.Architecture == "") {
				t.Errorf("chain: %+v", i.Config)
			}
		}
	}
}

// TestLoadHostile: each of these is refused with one line, from a file and from a pipe, and the store is as it was.
func TestLoadHostile(t *testing.T) {
	evil := tarWith(t, []tar.Header{{Name: "../../etc/passwd", Typeflag: tar.TypeReg}}, nil)
	docker := func(l listed, more parts) parts {
		p := parts{"manifest.json": text(t, []listed{l})}
		maps.Copy(p, more)
		return p
	}
	good := layoutOf(t, nil)
	config := text(t, ocispec.Image{RootFS: ocispec.RootFS{DiffIDs: []digest.Digest{digest.FromBytes(tarOf(t, file{"a", "1"}))}}})
	withIndex := func(index any) []byte {
		p := maps.Clone(good)
		p[ocispec.ImageIndexFile] = text(t, index)
		return p.tar(t)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"wrong digest": {layoutOf(t, func(p parts, m *ocispec.Manifest, _ *ocispec.Image) {
			p[blobName(m.Layers[0].Digest)] = tarOf(t, file{"a", "2"})
		}).tar(t), "what came is not what was announced"},
		"wrong size": {layoutOf(t, func(_ parts, m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Size++ }).tar(t), "what came is not what was announced"},
		"wrong content": {layoutOf(t, func(_ parts, _ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = digest.FromString("x")
		}).tar(t), "what came is not what was announced"},
		"wrong config": {layoutOf(t, func(p parts, m *ocispec.Manifest, c *ocispec.Image) {
			m.Config = p.put(text(t, c))
			p[blobName(m.Config.Digest)] = []byte("{}")
		}).tar(t), "what came is not what was announced"},
		"missing layer":   {layoutOf(t, func(p parts, m *ocispec.Manifest, _ *ocispec.Image) { delete(p, blobName(m.Layers[0].Digest)) }).tar(t), "is not in the archive"},
		"more layers":     {layoutOf(t, func(_ parts, m *ocispec.Manifest, _ *ocispec.Image) { m.Layers = append(m.Layers, m.Layers[0]) }).tar(t), "the manifest has 2 layers, the config 1"},
		"thousand layers": {layoutOf(t, func(_ parts, m *ocispec.Manifest, _ *ocispec.Image) { m.Layers = slices.Repeat(m.Layers, 1000) }).tar(t), "1000 layers"},
		"no digest":       {layoutOf(t, func(_ parts, m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Digest = "sha256:../../../etc" }).tar(t), `layer "sha256:../../../etc"`},
		"names upwards": {layoutOf(t, func(p parts, m *ocispec.Manifest, c *ocispec.Image) {
			m.Layers[0] = p.put(evil)
			c.RootFS.DiffIDs[0] = m.Layers[0].Digest
		}).tar(t), "the name leads upwards"},
		"artifact": {layoutOf(t, func(p parts, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Config = p.put([]byte("{}"))
			m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json"
		}).tar(t), "this is no image, but an artifact of type"},
		"schema 1": {layoutOf(t, func(_ parts, m *ocispec.Manifest, _ *ocispec.Image) {
			m.MediaType = "application/vnd.docker.distribution.manifest.v1+json"
		}).tar(t), "manifest of type"},
		"no images":    {withIndex(ocispec.Index{}), "there are no images in it"},
		"no manifest":  {withIndex(ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: digest.FromString("x")}}}), "is not in the archive"},
		"bad manifest": {withIndex(ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: "sha512:abc"}}}), "only SHA-256 is known"},
		"bad index":    {parts{"index.json": []byte(`{"manifests":7}`)}.tar(t), "read index.json"},
		"other platform": {func() []byte {
			p := maps.Clone(good)
			d := p.put(text(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
				{Digest: digest.FromString("x"), Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}},
				{Digest: digest.FromString("y"), Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}}}}))
			p[ocispec.ImageIndexFile] = text(t, ocispec.Index{Manifests: []ocispec.Descriptor{d}})
			return p.tar(t)
		}(), "it is not for linux/"},
		"list without end": {docker(listed{Config: "c"}, parts{"c": []byte("->d"), "d": []byte("->c")}).tar(t), "c is not in the archive"},
		"path upwards":     {docker(listed{Config: "../../../etc/passwd"}, nil).tar(t), "is not in the archive"},
		"link upwards":     {docker(listed{Config: "c"}, parts{"c": []byte("->../../../etc/passwd")}).tar(t), "is not in the archive"},
		"no layer":         {docker(listed{Config: "c", Layers: []string{"l"}}, parts{"c": config}).tar(t), "is not in the archive"},
		"text for a layer": {docker(listed{Config: "c", Layers: []string{"l"}}, parts{"c": config, "l": []byte("hello, this is no tar")}).tar(t), ""},
		"xz for a layer":   {docker(listed{Config: "c", Layers: []string{"l"}}, parts{"c": config, "l": []byte("\xfd7zXZ\x00 and so on")}).tar(t), ""},
		"bad name":         {docker(listed{Config: "c", Layers: []string{"l"}, RepoTags: []string{"Bad\x1b[31m"}}, parts{"c": config, "l": tarOf(t, file{"a", "1"})}).tar(t), `"Bad\x1b[31m"`},
		"long text":        {parts{"manifest.json": append([]byte("["), bytes.Repeat([]byte(" "), maxConfig)...)}.tar(t), ""},
		"no list":          {parts{"x": []byte("{}")}.tar(t), "neither index.json nor manifest.json"},
		"bad list":         {parts{"manifest.json": []byte(`{"a":1}`)}.tar(t), "read manifest.json"},
		"cut":              {good.tar(t)[:3000], "unexpected EOF"},
		"no end":           {good.tar(t)[:len(good.tar(t))-1024], "it was cut off"},
		"no tar":           {[]byte(strings.Repeat("this is no tar\n", 100)), "this is no tar archive"},
		"xz":               {append([]byte("\xfd7zXZ\x00"), make([]byte, 1000)...), "packed with xz"},
		"empty":            {nil, "the archive is empty"},
	} {
		for way, r := range map[string]io.Reader{"file": fileOf(t, c.data), "pipe": pipeOf(c.data)} {
			t.Run(name+"/"+way, func(t *testing.T) {
				s := newStore(t)
				i := importTar(t, s, tarOf(t, file{"b", "1"}), "bad")
				before := content(t, s)
				_, err := s.Load(t.Context(), r, nil)
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n\x1b") {
					t.Errorf("load = %v; want one line with %q", err, c.want)
				}
				if after := content(t, s); !slices.Equal(after, before) {
					t.Errorf("store: %q; want it as it was, %q", after, before)
				}
				if same, err := s.Resolve("bad"); err != nil || same.ID != i.ID {
					t.Errorf("bad is %v, %v; want the image from before", same, err)
				}
			})
		}
	}
}

// TestLoadMoves: a name goes to what is loaded, and it is told who had it.
func TestLoadMoves(t *testing.T) {
	from, to := newStore(t), newStore(t)
	importTar(t, from, tarOf(t, file{"a", "new"}), "x")
	old := importTar(t, to, tarOf(t, file{"a", "old"}), "x")
	list, err := to.Load(t.Context(), pipeOf(saved(t, from, DockerArchive, "x")), nil)
	if err != nil || len(list) != 1 || list[0].Replaced["x:latest"] != old.ID {
		t.Fatalf("load: %v, %v; want %s replaced", list, err, old.ID)
	}
	if i, err := to.Resolve("x"); err != nil || i.ID != list[0].ID {
		t.Errorf("x is %v, %v", i, err)
	}
	if i, err := to.Resolve(old.ID); err != nil || len(i.Names) > 0 {
		t.Errorf("the old one: %v, %v; want it here, without a name", i, err)
	}
}

// TestLoadCancelled: nothing is left of what was given up.
func TestLoadCancelled(t *testing.T) {
	s := someImages(t)
	data := saved(t, s, DockerArchive, "host:5000/p/q:r")
	to := newStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no more")
	_, err := to.Load(ctx, io.MultiReader(bytes.NewReader(data[:4000]), cancelling{func() { cancel(why) }}), nil)
	if !errors.Is(err, why) {
		t.Errorf("load = %v; want %v", err, why)
	}
	if got := content(t, to); len(got) > 0 {
		t.Errorf("store: %q; want nothing", got)
	}
}

// cancelling gives nothing, but ends what reads it.
type cancelling struct{ cancel func() }

func (c cancelling) Read([]byte) (int, error) {
	c.cancel()
	return 0, nil
}
