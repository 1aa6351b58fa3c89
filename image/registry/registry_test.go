package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/image"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// server is a registry, and a place to stand between it and its clients.
type server struct {
	*httptest.Server
	host string

	mu     sync.Mutex
	seen   []string // method, path and query of each request
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Range")))
		before := s.before
		s.mu.Unlock()
		if before != nil && before(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

// do is what happens to each request from now on.
func (s *server) do(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.seen = f, nil
}

// count says how many requests had all of some words in them.
func (s *server) count(words ...string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.seen {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			n++
		}
	}
	return n
}

func newClient(t testing.TB, o Options) *Client {
	t.Helper()
	if o.ConfigDir == "" {
		o.ConfigDir = t.TempDir()
	}
	if o.CertDirs == nil {
		o.CertDirs = []string{t.TempDir()}
	}
	o.Pause = time.Millisecond
	c := New(o)
	t.Cleanup(c.Close)
	return c
}

func newStore(t testing.TB) *image.Store {
	t.Helper()
	s, err := image.Open(filepath.Join(t.TempDir(), "root"))
	must(t, err)
	return s
}

// layer is a tar with one file.
func layer(t testing.TB, name string, text []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Uid: os.Getuid(), Gid: os.Getgid()}))
	_, err := w.Write(text)
	must(t, err)
	must(t, w.Close())
	return buf.Bytes()
}

func noise(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(data)
	return data
}

func gzipped(t testing.TB, data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(data)
	must(t, w.Close())
	return buf.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(data, nil)
}

// remoteImage puts an image into a registry by bare requests, and returns the descriptor of its manifest.
func (s *server) remoteImage(t testing.TB, repo, tag, arch string, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, l := range layers {
		plain := l
		if r, err := gzip.NewReader(bytes.NewReader(l)); err == nil {
			plain, err = io.ReadAll(r)
			must(t, err)
		} else if d, _ := zstd.NewReader(nil); bytes.HasPrefix(l, []byte("\x28\xb5\x2f\xfd")) {
			plain, err = d.DecodeAll(l, nil)
			must(t, err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		m.Layers = append(m.Layers, s.putBlob(t, repo, ocispec.MediaTypeImageLayerGzip, l))
	}
	text, err := json.Marshal(config)
	must(t, err)
	m.Config = s.putBlob(t, repo, ocispec.MediaTypeImageConfig, text)
	d := s.putManifest(t, repo, tag, m.MediaType, m)
	d.Platform = &config.Platform
	return d
}

func (s *server) putBlob(t testing.TB, repo, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	resp, err := http.Post(s.URL+"/v2/"+repo+"/blobs/uploads/?digest="+string(d.Digest), "application/octet-stream", bytes.NewReader(data))
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("put blob: %s", resp.Status)
	}
	return d
}

func (s *server) putManifest(t testing.TB, repo, tag, mediaType string, m any) ocispec.Descriptor {
	t.Helper()
	text, ok := m.([]byte)
	if !ok {
		var err error
		text, err = json.Marshal(m)
		must(t, err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	if tag == "" {
		tag = string(d.Digest)
	}
	req, err := http.NewRequest(http.MethodPut, s.URL+"/v2/"+repo+"/manifests/"+tag, bytes.NewReader(text))
	must(t, err)
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("put manifest: %s: %s", resp.Status, body)
	}
	return d
}

func names(i *image.Image) string { return strings.Join(append(i.Names, i.Digests...), " ") }

func file(t testing.TB, s *image.Store, i *image.Image, n int, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Folders(i)[n], name))
	must(t, err)
	return string(text)
}

func TestPull(t *testing.T) {
	s, store, c := newServer(t), newStore(t), newClient(t, Options{})
	d := s.remoteImage(t, "a/b", "v1", here().Architecture,
		gzipped(t, layer(t, "one", []byte("1"))), zstded(t, layer(t, "two", []byte("2"))), layer(t, "three", []byte("3")))
	ref := s.host + "/a/b:v1"
	p, err := c.Pull(context.Background(), store, ref, PullOptions{})
	must(t, err)
	if !p.Changed || p.Digest != d.Digest || names(p.Image) != ref+" "+s.host+"/a/b@"+string(d.Digest) {
		t.Errorf("%+v: %s", p, names(p.Image))
	}
	for n, name := range []string{"one", "two", "three"} {
		if got := file(t, store, p.Image, n, name); got != fmt.Sprint(n+1) {
			t.Errorf("%s holds %q", name, got)
		}
	}
	// Again: it is asked what the tag stands for, and nothing else.
	s.do(nil)
	p, err = c.Pull(context.Background(), store, ref, PullOptions{})
	must(t, err)
	if p.Changed || s.count("blobs") != 0 {
		t.Errorf("changed %v, requests %q", p.Changed, s.seen)
	}
	// By digest, and from another repository, whose layers are here.
	s.do(nil)
	must(t, errOf(c.Pull(context.Background(), store, s.host+"/a/b@"+string(d.Digest), PullOptions{})))
	s.remoteImage(t, "c", "latest", here().Architecture, gzipped(t, layer(t, "one", []byte("1"))))
	s.do(nil)
	must(t, errOf(c.Pull(context.Background(), store, s.host+"/c", PullOptions{})))
	if s.count("GET", "blobs") != 1 { // the config
		t.Errorf("requests %q", s.seen)
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestPullPlatform(t *testing.T) {
	s, store, c := newServer(t), newStore(t), newClient(t, Options{})
	list := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	list.SchemaVersion = 2
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		list.Manifests = append(list.Manifests, s.remoteImage(t, "x", "", arch, layer(t, "arch", []byte(arch))))
	}
	statement := s.remoteImage(t, "x", "", "unknown", layer(t, "note", nil))
	statement.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	list.Manifests = append([]ocispec.Descriptor{statement}, list.Manifests...)
	d := s.putManifest(t, "x", "latest", list.MediaType, list)
	for _, want := range []string{"", "linux/arm64", "linux/s390x", "arm64/v8"} {
		want = strings.TrimPrefix(want, "arm64/v8")
		p, err := c.Pull(context.Background(), store, s.host+"/x", PullOptions{Platform: want})
		must(t, err)
		arch := strings.TrimPrefix(want, "linux/")
		if arch == "" {
			arch = here().Architecture
		}
		if got := file(t, store, p.Image, 0, "arch"); got != arch || p.Digest != d.Digest {
			t.Errorf("%q: got %s, %s", want, got, p.Digest)
		}
	}
	_, err := c.Pull(context.Background(), store, s.host+"/x", PullOptions{Platform: "linux/riscv64"})
	if !errors.Is(err, ErrPlatform) || err.Error() != "the image is not for linux/riscv64, but for linux/amd64, linux/arm64, linux/s390x" {
		t.Error(err)
	}
	// One that is no list.
	s.remoteImage(t, "single", "latest", "mips64le", layer(t, "a", nil))
	_, err = c.Pull(context.Background(), store, s.host+"/single", PullOptions{})
	if !errors.Is(err, ErrPlatform) || !strings.HasSuffix(err.Error(), "but for linux/mips64le") {
		t.Error(err)
	}
	must(t, errOf(c.Pull(context.Background(), store, s.host+"/single", PullOptions{Platform: "linux/mips64le"})))
}

func TestScore(t *testing.T) {
	arm := func(v string) ocispec.Platform {
		return ocispec.Platform{OS: "linux", Architecture: "arm", Variant: v}
	}
	for _, c := range []struct {
		has, want ocispec.Platform
		fits      bool
	}{
		{arm("v7"), arm("v7"), true}, {arm("v6"), arm("v7"), true}, {arm("v7"), arm("v6"), false}, {arm(""), arm("v7"), true},
		{ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, ocispec.Platform{OS: "linux", Architecture: "aarch64"}, true},
		{ocispec.Platform{OS: "windows", Architecture: "amd64"}, ocispec.Platform{OS: "linux", Architecture: "amd64"}, false},
		{ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"}, ocispec.Platform{OS: "linux", Architecture: "amd64"}, false},
	} {
		if got := score(c.has, c.want) > 0; got != c.fits {
			t.Errorf("score(%v, %v) > 0 = %v", c.has, c.want, got)
		}
	}
	if score(arm("v7"), arm("v7")) <= score(arm("v6"), arm("v7")) {
		t.Error("an older variant is taken where the newer is there")
	}
}

// TestPullResumes: a server that hangs up in the middle of each answer is asked for the rest, by this pull or the next.
func TestPullResumes(t *testing.T) {
	big := gzipped(t, layer(t, "noise", noise(6<<20)))
	for name, ranges := range map[string]bool{"with ranges": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			s, store, c := newServer(t), newStore(t), newClient(t, Options{})
			s.remoteImage(t, "x", "latest", here().Architecture, big)
			path := "/v2/x/blobs/" + string(digest.FromBytes(big))
			var sent, cut int
			s.do(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != path {
					return false
				}
				begin, end := 0, len(big)
				if v := r.Header.Get("Range"); ranges && v != "" {
					fmt.Sscanf(v, "bytes=%d-", &begin)
				}
				if end = min(end, begin+2<<20); ranges && begin > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", begin, len(big)-1, len(big)))
				}
				if !ranges && cut >= 2 {
					end = len(big)
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(big)-begin))
				if begin > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				n, _ := w.Write(big[begin:end])
				sent, cut = sent+n, cut+1
				return true
			})
			p, err := c.Pull(context.Background(), store, s.host+"/x", PullOptions{})
			must(t, err)
			if got := len(file(t, store, p.Image, 0, "noise")); got != 6<<20 {
				t.Errorf("%d bytes", got)
			}
			if ranges && (sent != len(big) || cut < 3) {
				t.Errorf("%d bytes of %d were sent, in %d parts", sent, len(big), cut)
			}
		})
	}
}

// TestPullResumesLater: what an interrupted pull has got, the next one does not ask for.
func TestPullResumesLater(t *testing.T) {
	big := gzipped(t, layer(t, "noise", noise(16<<20)))
	s, store := newServer(t), newStore(t)
	s.remoteImage(t, "x", "latest", here().Architecture, big)
	ctx, cancel := context.WithCancelCause(context.Background())
	stopped := errors.New("stopped by the user")
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(digest.FromBytes(big))) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		w.Write(big[:12<<20])
		w.(http.Flusher).Flush()
		<-r.Context().Done() // and nothing more, until the client goes
		return true
	})
	o := PullOptions{Progress: func(p image.Progress) {
		if p.Current >= 12<<20 {
			cancel(stopped)
		}
	}}
	if _, err := newClient(t, Options{}).Pull(ctx, store, s.host+"/x", o); !errors.Is(err, stopped) {
		t.Fatalf("%v, want %v", err, stopped)
	}
	s.do(nil)
	must(t, errOf(newClient(t, Options{}).Pull(context.Background(), store, s.host+"/x", PullOptions{})))
	// Of what came last, some may not have reached the disk.
	if s.count("blobs/"+string(digest.FromBytes(big)), " bytes=") != 1 {
		t.Errorf("requests %q", s.seen)
	}
}

func TestTags(t *testing.T) {
	s, c := newServer(t), newClient(t, Options{})
	for n := range 5 {
		s.remoteImage(t, "x", fmt.Sprintf("v%d", n), "amd64", layer(t, "a", nil))
	}
	page := 0
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return false
		}
		if page++; page < 3 {
			w.Header().Set("Link", fmt.Sprintf(`</v2/x/tags/list?n=2&last=v%d>; rel="next"`, page))
		}
		fmt.Fprintf(w, `{"name":"x","tags":["v%d"]}`, page)
		return true
	})
	if tags, err := c.Tags(context.Background(), s.host+"/x"); err != nil || fmt.Sprint(tags) != "[v1 v2 v3]" || s.count("last=v2") != 1 {
		t.Errorf("%v, %v, %q", tags, err, s.seen)
	}
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Link", `</v2/x/tags/list>; rel="next"`)
		io.WriteString(w, `{"tags":["`+strings.Repeat(`a","`, 999)+`a"]}`)
		return true
	})
	if _, err := c.Tags(context.Background(), s.host+"/x"); !errors.Is(err, image.ErrContent) {
		t.Error(err)
	}
}
