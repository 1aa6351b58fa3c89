package image

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/nslab/nslab/course"
)

// server is a registry, which lives as long as the step: it speaks the distribution specification and keeps blobs in memory.
type server struct {
	address string

	mu       sync.Mutex
	requests []string // "PUT /v2/hello/manifests/latest"
	lie      bool     // hand out layers with a byte changed
}

// newServer starts a registry on a free port of the loopback.
func newServer(t *course.T) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{address: listener.Addr().String()}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(inner, w, r) })}
	go h.Serve(listener)
	t.Cleanup(func(context.Context) error { return h.Close() })
	return s, nil
}

func (s *server) serve(inner http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	lie := s.lie && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
	s.mu.Unlock()
	if !lie {
		inner.ServeHTTP(w, r)
		return
	}
	honest := httptest.NewRecorder()
	inner.ServeHTTP(honest, r)
	body := honest.Body.Bytes()
	for name, values := range honest.Header() {
		w.Header()[name] = values
	}
	if len(body) > 0 && body[0] != '{' { // a layer, not the config
		body[len(body)-1] ^= 1 // behind the end of the archive, where no reader of tars would look
	}
	w.WriteHeader(honest.Code)
	w.Write(body)
}

// asked returns what it was asked for since the last time, as far as the words are in there.
func (s *server) asked(words ...string) (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		match := true
		for _, w := range words {
			match = match && strings.Contains(r, w)
		}
		if match {
			list = append(list, r)
		}
	}
	return list
}

func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// pushed makes a place with the image, and a registry that has it.
func pushed(t *course.T) (place, *server, error) {
	p, err := newApp(t)
	if err != nil {
		return p, nil, err
	}
	s, err := newServer(t)
	if err != nil {
		return p, nil, err
	}
	name := s.address + "/" + appName
	if _, err := p.nslab(t.Untraced(), "image", "tag", appName, name); err != nil {
		return p, nil, err
	}
	_, err = p.nslab(t.Untraced(), "image", "push", "--quiet", name)
	return p, s, err
}

// push: only what the other side does not have goes over the wire.
func push(t *course.T) error {
	p, err := newApp(t)
	if err != nil {
		return err
	}
	s, err := newServer(t)
	if err != nil {
		return err
	}
	i, err := p.look(appName)
	if err != nil {
		return err
	}
	name := s.address + "/" + appName
	if _, err := p.nslab(t.Context(), "image", "tag", appName, name); err != nil {
		return err
	}
	if _, err := p.nslab(t.Context(), "image", "push", name); err != nil {
		return err
	}
	blobs, manifests := s.asked("PUT", "/blobs/"), s.asked("PUT", "/manifests/")
	t.See("the registry was given %d blobs and %d manifest: %s", len(blobs), len(manifests), strings.Join(manifests, " "))
	t.Equal(len(i.Manifest.Layers)+1, len(blobs), "the layers and the config, each once")
	answer, err := http.Get("http://" + name[:len(s.address)] + "/v2/" + appName + "/manifests/latest")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	manifest, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return err
	}
	t.See("its manifest, asked for by hand: %s; here: %s", short(digestOf(manifest)), short(i.Descriptor.Digest.String()))
	t.Equal(i.Descriptor.Digest.String(), digestOf(manifest), "under the name it has the manifest that we have, byte for byte")

	s.forget()
	if _, err := p.nslab(t.Context(), "image", "push", name); err != nil {
		return err
	}
	t.See("pushed again: %d questions whether a blob is there, %d blobs sent", len(s.asked("HEAD", "/blobs/")), len(s.asked("PUT", "/blobs/")))
	t.Equal(0, len(s.asked("PUT", "/blobs/")), "nothing that is there is sent again")
	return nil
}

// pull: an empty store, on another machine as far as it knows.
func pull(t *course.T) error {
	p, s, err := pushed(t)
	if err != nil {
		return err
	}
	there, err := newPlace(t, "there", false)
	if err != nil {
		return err
	}
	name := s.address + "/" + appName
	if _, err := there.nslab(t.Context(), "image", "pull", name); err != nil {
		return err
	}
	here, err := p.look(appName)
	if err != nil {
		return err
	}
	came, err := there.look(name)
	if err != nil {
		return err
	}
	t.See("manifest: here %s, there %s", short(here.Descriptor.Digest.String()), short(came.Descriptor.Digest.String()))
	t.Equal(here.Descriptor.Digest, came.Descriptor.Digest, "the same digest")
	same := 0
	for n := range here.Manifest.Layers {
		a, count, err := fingerprint(p.folder(here.chain(n)))
		if err != nil {
			return err
		}
		b, _, err := fingerprint(there.folder(here.chain(n)))
		if err != nil {
			return err
		}
		if a == b {
			same++
		}
		t.See("layer %d, %d files: %s here, %s there", n, count, short(a), short(b))
	}
	t.Equal(len(here.Manifest.Layers), same, "and the same files: names, modes, owners, contents")
	said, err := there.nslab(t.Context(), "container", "run", "--rm", "--network", "none", name)
	if err != nil {
		return err
	}
	t.Equal("Hello World", said, "it runs there as it did here")
	return nil
}

// liar: a registry that hands out other bytes than it was asked for.
func liar(t *course.T) error {
	_, s, err := pushed(t)
	if err != nil {
		return err
	}
	there, err := newPlace(t, "there", false)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.lie = true
	s.mu.Unlock()
	name := s.address + "/" + appName
	said, err := there.nslab(t.Context(), "image", "pull", name)
	if err == nil {
		t.See("pull says: %s", said)
	} else {
		t.See("pull says: %s", lastLine(err))
	}
	t.Check(err != nil && strings.Contains(err.Error(), "sha256:"), "a refusal that names the digest", fmt.Sprint(err), "what does not hash to its digest is refused")
	images, err := there.nslab(t.Untraced(), "image", "ls", "--quiet")
	if err != nil {
		return err
	}
	layers := list(there.layers())
	if _, err := os.Stat(there.layers()); err != nil {
		layers = "–"
	}
	t.See("in the store there: images %q, layers %s", images, layers)
	t.Equal("", images, "no image has come of it")
	blobs, err := filepath.Glob(filepath.Join(there.store(), "blobs/sha256/*"))
	if err != nil {
		return err
	}
	wrong := 0
	for _, b := range blobs {
		if fileDigest(b) != "sha256:"+filepath.Base(b) {
			wrong++
		}
	}
	t.Equal(0, wrong, "and no file that is not what its name says")
	return nil
}

// lastLine is the gist of a command's error: what it printed last but a hint.
func lastLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for len(lines) > 1 && strings.HasPrefix(lines[len(lines)-1], "hint:") {
		lines = lines[:len(lines)-1]
	}
	line := lines[len(lines)-1]
	if _, after, ok := strings.Cut(line, "nslab: "); ok {
		line = after
	}
	return line
}
