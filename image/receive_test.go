package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// elsewhere is a place that images come from. Its blobs are read from the moment that the test chooses.
type elsewhere struct {
	mu       sync.Mutex
	blobs    map[digest.Digest][]byte
	manifest []byte
	read     map[digest.Digest]int64 // how many bytes of each blob were given out
	cut      map[digest.Digest]int64 // where a blob breaks off, once
	before   <-chan struct{}         // closed when it may; nil: at once
	wrong    map[digest.Digest][]byte
}

var errCut = errors.New("the line went dead")

// away makes an image somewhere else; each layer is a tar.
func away(t testing.TB, layers ...[]byte) *elsewhere {
	t.Helper()
	e := &elsewhere{
		blobs: map[digest.Digest][]byte{}, read: map[digest.Digest]int64{}, cut: map[digest.Digest]int64{}, wrong: map[digest.Digest][]byte{},
	}
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		e.blobs[d.Digest] = data
		return d
	}
	var m ocispec.Manifest
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	for _, l := range layers {
		m.Layers = append(m.Layers, put(ocispec.MediaTypeImageLayer, l))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
	}
	text, err := json.Marshal(config)
	must(t, err)
	m.SchemaVersion, m.MediaType, m.Config = 2, ocispec.MediaTypeImageManifest, put(ocispec.MediaTypeImageConfig, text)
	e.manifest, err = json.Marshal(m)
	must(t, err)
	return e
}

func (e *elsewhere) open(_ context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	data, ok := e.blobs[d.Digest]
	if w, bad := e.wrong[d.Digest]; bad {
		data = w
	}
	if !ok {
		return nil, fmt.Errorf("blob %s is not here", d.Digest)
	}
	end := io.Reader(strings.NewReader(""))
	if n, ok := e.cut[d.Digest]; ok {
		delete(e.cut, d.Digest)
		data, end = data[:n], failing{e.before}
	}
	data = data[min(offset, int64(len(data))):]
	return io.NopCloser(io.MultiReader(counting{e, d.Digest, bytes.NewReader(data)}, end)), nil
}

// counting notes how much of a blob was read.
type counting struct {
	e *elsewhere
	d digest.Digest
	r io.Reader
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.e.read[c.d] += int64(n)
	return n, err
}

// failing breaks off, once something else has happened.
type failing struct{ after <-chan struct{} }

func (f failing) Read([]byte) (int, error) {
	if f.after != nil {
		<-f.after
	}
	return 0, errCut
}

func (e *elsewhere) incoming(names ...string) Incoming {
	return Incoming{Names: names, Manifest: e.manifest, Open: e.open}
}

func (e *elsewhere) layer(t testing.TB, n int) digest.Digest {
	t.Helper()
	var m ocispec.Manifest
	must(t, json.Unmarshal(e.manifest, &m))
	return m.Layers[n].Digest
}

// noise is a file that takes room.
func noise(name string, size int) file {
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, size)
	random.Read(data)
	return file{name, string(data)}
}

func TestReceive(t *testing.T) {
	s := newStore(t)
	one, two := tarOf(t, file{"a", "1"}), tarOf(t, file{"b", "2"})
	e := away(t, one, two, one)
	i, changed, err := s.Receive(context.Background(), e.incoming("x:latest", "x@sha256:"+strings.Repeat("a", 64)))
	must(t, err)
	if !changed || i.Digest != string(digest.FromBytes(e.manifest)) || len(i.Digests) != 1 || len(i.Names) != 1 {
		t.Errorf("changed %v, image %+v", changed, i)
	}
	if e.read[e.layer(t, 0)] != int64(len(one)) {
		t.Errorf("a layer that is there twice was fetched as %d bytes of %d", e.read[e.layer(t, 0)], len(one))
	}
	for n, dir := range s.Folders(i) {
		if got, want := view(t, dir), []string{"a=1", "b=2", "a=1"}[n]; got != want {
			t.Errorf("layer %d holds %q, want %q", n, got, want)
		}
	}
	// Once more, and nothing happens; and another image with a layer of this one fetches the other only.
	if _, changed, err = s.Receive(context.Background(), e.incoming("x:latest")); err != nil || changed {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	f := away(t, one, tarOf(t, file{"c", "3"}))
	var states []ReceiveState
	o := f.incoming("y:latest")
	o.Progress = func(p Progress) {
		if p.Layer == 0 {
			states = append(states, p.State)
		}
	}
	_, changed, err = s.Receive(context.Background(), o)
	if err != nil || !changed || f.read[f.layer(t, 0)] != 0 || fmt.Sprint(states) != fmt.Sprint([]ReceiveState{Waiting, Present}) {
		t.Errorf("changed %v, %v; %d bytes of a layer that was here; states %v", changed, err, f.read[f.layer(t, 0)], states)
	}
}

// TestReceiveAfterRemove: the blob is here and the folder is not, as after a crash.
func TestReceiveAfterRemove(t *testing.T) {
	s := newStore(t)
	e := away(t, tarOf(t, file{"a", "1"}))
	i, _, err := s.Receive(context.Background(), e.incoming("x:latest"))
	must(t, err)
	must(t, os.RemoveAll(s.layerPath(i.Chain()[0])))
	_, _, err = s.Receive(context.Background(), e.incoming("x:latest"))
	must(t, err)
	if got := view(t, s.Folders(i)[0]); got != "a=1" || e.read[e.layer(t, 0)] != int64(len(e.blobs[e.layer(t, 0)])) {
		t.Errorf("%q, %d bytes fetched", got, e.read[e.layer(t, 0)])
	}
	// And a blob that is broken is replaced.
	must(t, os.RemoveAll(s.layerPath(i.Chain()[0])))
	blob := s.blobPath(e.layer(t, 0))
	must(t, os.WriteFile(blob, make([]byte, len(e.blobs[e.layer(t, 0)])), 0o600))
	_, _, err = s.Receive(context.Background(), e.incoming("x:latest"))
	must(t, err)
	if data, err := os.ReadFile(blob); err != nil || digest.FromBytes(data) != e.layer(t, 0) {
		t.Errorf("the broken blob is still there: %v", err)
	}
}

// TestReceiveResumes: what has come is not fetched again, neither the layers that were whole nor the beginning of the one
// that was not.
func TestReceiveResumes(t *testing.T) {
	s := newStore(t)
	one, two := tarOf(t, noise("a", 3<<20)), tarOf(t, noise("b", 5<<20))
	e := away(t, one, two)
	const cut = 3<<20 + 1234
	e.cut[e.layer(t, 1)] = cut
	whole := make(chan struct{}) // the first layer; what is still on its way to the disk when another breaks off is lost
	e.before = whole
	in := e.incoming("x:latest")
	in.Progress = func(p Progress) {
		if p.Layer == 0 && p.State == Received {
			close(whole)
		}
	}
	_, _, err := s.Receive(context.Background(), in)
	if !errors.Is(err, errCut) {
		t.Fatalf("the first time: %v", err)
	}
	if list, _ := s.List(); len(list) > 0 {
		t.Fatal("half an image is listed")
	}
	i, _, err := s.Receive(context.Background(), e.incoming("x:latest"))
	must(t, err)
	if n := e.read[e.layer(t, 0)]; n > int64(len(one))+block {
		t.Errorf("the first layer was fetched twice: %d bytes of %d", n, len(one))
	}
	if n := e.read[e.layer(t, 1)]; n > int64(len(two))+block {
		t.Errorf("the second layer was fetched anew: %d bytes of %d", n, len(two))
	}
	if got := view(t, s.Folders(i)[1]); len(got) != 5<<20+2 {
		t.Errorf("the second layer has %d bytes", len(got))
	}
	left, _ := filepath.Glob(s.images(partialDir, "*"))
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestReceiveBrokenBeginning: what was left of the last time is not what it should be, so all is fetched.
func TestReceiveBrokenBeginning(t *testing.T) {
	for name, broken := range map[string][]byte{
		"zeros":   make([]byte, 2<<20),
		"garbage": bytes.Repeat([]byte("garbage "), 1<<18), // no tar, which is seen before the digest is
		"longer":  make([]byte, 9<<20),
		"as-long": make([]byte, 5<<20+1024+512+512),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			e := away(t, tarOf(t, noise("b", 5<<20)))
			must(t, os.MkdirAll(s.images(partialDir), 0o700))
			must(t, os.WriteFile(s.images(partialDir, e.layer(t, 0).Encoded()), broken, 0o600))
			i, _, err := s.Receive(context.Background(), e.incoming("x:latest"))
			must(t, err)
			if got := view(t, s.Folders(i)[0]); len(got) != 5<<20+2 {
				t.Errorf("the layer has %d bytes", len(got))
			}
		})
	}
}

// TestReceiveRefuses: what is not what was announced changes nothing.
func TestReceiveRefuses(t *testing.T) {
	layer := tarOf(t, noise("b", 2<<20))
	refuse := func(name string, change func(e *elsewhere), want string) {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			e := away(t, layer)
			change(e)
			_, _, err := s.Receive(context.Background(), e.incoming("x:latest"))
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || errors.Is(err, ErrCorrupt) {
				t.Errorf("%v, want %q", err, want)
			}
			for _, pattern := range []string{"layers/*", "layers/.[a-z]*", "images/blobs/sha256/*"} {
				if left, _ := filepath.Glob(filepath.Join(s.root, pattern)); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			}
		})
	}
	replace := func(data []byte) func(*elsewhere) {
		return func(e *elsewhere) { e.wrong[e.layer(t, 0)] = data }
	}
	manifest := func(f func(m *ocispec.Manifest)) func(*elsewhere) {
		return func(e *elsewhere) {
			var m ocispec.Manifest
			must(t, json.Unmarshal(e.manifest, &m))
			f(&m)
			e.manifest, _ = json.Marshal(m)
		}
	}
	other := bytes.Clone(layer)
	other[len(other)/2]++
	refuse("wrong digest", replace(other), ", not sha256:")
	refuse("too long", replace(append(bytes.Clone(layer), 0)), "it has more than the 2098688 bytes that were announced")
	refuse("too short", replace(layer[:1<<20]), "it ends after 1048576 of 2098688 bytes: unexpected EOF")
	refuse("empty", replace(nil), "it ends after 0 of 2098688 bytes")
	refuse("schema 1", manifest(func(m *ocispec.Manifest) { m.SchemaVersion = 1 }), "schema version 1, not 2")
	refuse("wrong config", func(e *elsewhere) {
		var m ocispec.Manifest
		must(t, json.Unmarshal(e.manifest, &m))
		e.wrong[m.Config.Digest] = bytes.Repeat([]byte(" "), int(m.Config.Size))
	}, "config ")
	refuse("too many layers", manifest(func(m *ocispec.Manifest) {
		for len(m.Layers) <= maxLayers {
			m.Layers = append(m.Layers, m.Layers[0])
		}
	}), "image has 501 layers")
	refuse("another number of layers", manifest(func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), "the manifest has 2 layers, the config 1: what came")
	refuse("a name that leads elsewhere", manifest(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../../etc/passwd" }), "only sha256 digests are known")
	refuse("no layer at all", manifest(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), "a size of -1 bytes")
	refuse("a huge config", manifest(func(m *ocispec.Manifest) { m.Config.Size = 1 << 40 }), "a config of 1099511627776 bytes")
	refuse("no json", func(e *elsewhere) { e.manifest = []byte("<html>") }, "read manifest: ")
	refuse("a huge manifest", func(e *elsewhere) { e.manifest = bytes.Repeat([]byte(" "), maxManifest+1) }, "manifest has 4194305 bytes")
}

// TestReceiveTogether: several at once, of the same image and of others with the same layers.
func TestReceiveTogether(t *testing.T) {
	s := newStore(t)
	shared := tarOf(t, noise("a", 2<<20))
	images := []*elsewhere{away(t, shared, tarOf(t, file{"b", "1"})), away(t, tarOf(t, file{"c", "1"}), shared)}
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			e := images[n%2]
			i, _, err := s.Receive(context.Background(), e.incoming(fmt.Sprintf("x:%d", n)))
			if err != nil || i.Digest != string(digest.FromBytes(e.manifest)) {
				t.Errorf("%d: %v", n, err)
			}
		})
	}
	all.Wait()
	if list, err := s.List(); err != nil || len(list) != 2 || len(list[0].Names)+len(list[1].Names) != 8 {
		t.Errorf("%d images, %v", len(list), err)
	}
	if n := images[0].read[digest.FromBytes(tarOf(t, file{"b", "1"}))]; n > 2048*5 {
		t.Errorf("a layer was fetched more than once: %d bytes", n)
	}
}

// TestPruneDropsBeginnings: what was received in vain does not stay for ever.
func TestPruneDropsBeginnings(t *testing.T) {
	s := newStore(t)
	e := away(t, tarOf(t, noise("b", 5<<20)))
	e.cut[e.layer(t, 0)] = 3 << 20
	if _, _, err := s.Receive(context.Background(), e.incoming("x:latest")); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	_, freed, err := s.Prune(PruneOptions{})
	if left, _ := filepath.Glob(s.images(partialDir, "*")); err != nil || freed != 3<<20 || len(left) > 0 {
		t.Errorf("freed %d, left %q, %v", freed, left, err)
	}
}
