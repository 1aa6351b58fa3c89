package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nslab/nslab/image"
)

func TestPullErrors(t *testing.T) {
	l := gzipped(t, layer(t, "a", noise(100_000)))
	blob := func(w http.ResponseWriter, r *http.Request, answer []byte) bool {
		if !strings.HasSuffix(r.URL.Path, string(digest.FromBytes(l))) {
			return false
		}
		w.Write(answer)
		return true
	}
	wrong := bytes.Clone(l)
	wrong[len(wrong)-1]++ // the length, which gzip looks at
	manifests := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
	for name, c := range map[string]struct {
		do    func(w http.ResponseWriter, r *http.Request) bool
		state error
		want  string
		o     Options
	}{
		"wrong digest": {func(w http.ResponseWriter, r *http.Request) bool { return blob(w, r, wrong) }, image.ErrContent, "gzip: invalid checksum", Options{}},
		"another layer": {func(w http.ResponseWriter, r *http.Request) bool {
			other := gzipped(t, layer(t, "a", noise(99_000)))
			return blob(w, r, append(other, make([]byte, len(l)-len(other))...))
		}, image.ErrContent, "layer ", Options{}},
		"too long": {func(w http.ResponseWriter, r *http.Request) bool { return blob(w, r, append(bytes.Clone(l), 1)) }, image.ErrContent, "were announced", Options{}},
		"too long, unannounced": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, string(digest.FromBytes(l))) {
				return false
			}
			w.(http.Flusher).Flush() // so that there is no Content-Length
			w.Write(append(bytes.Clone(l), make([]byte, 1<<20)...))
			return true
		}, image.ErrContent, "more than the", Options{}},
		"too short": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, string(digest.FromBytes(l))) {
				return false
			}
			w.(http.Flusher).Flush()
			if r.Header.Get("Range") == "" {
				w.Write(l[:1000])
			}
			return true
		}, ErrUnreachable, "hangs up", Options{}},
		"not found": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
			}
			return manifests(r)
		}, ErrNotFound, " says: manifest unknown", Options{}},
		"forbidden": {func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, ErrUnauthorized, " says: Forbidden", Options{}},
		"busy": {func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, nil, "Service Unavailable (status 503)", Options{}},
		"a page": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				io.WriteString(w, "<html>Welcome to the hotel's network</html>")
			}
			return manifests(r)
		}, ErrNoImage, "cannot be read", Options{}},
		"schema 1": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
				io.WriteString(w, `{"schemaVersion":1,"name":"x","tag":"latest","fsLayers":[]}`)
			}
			return manifests(r)
		}, ErrNoImage, "schema 1", Options{}},
		"two in one": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				io.WriteString(w, `{"schemaVersion":2,"manifests":[],"layers":[]}`)
			}
			return manifests(r)
		}, ErrNoImage, "at the same time", Options{}},
		"an index without end": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				fmt.Fprintf(w, `{"schemaVersion":2,"manifests":[{"digest":"sha256:%064d","size":10}]}`, 1)
			}
			return manifests(r)
		}, image.ErrContent, "manifest is ", Options{}},
		"a huge manifest": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				w.Write(bytes.Repeat([]byte(" "), image.MaxManifest+1))
			}
			return manifests(r)
		}, image.ErrContent, "more than 4194304 bytes", Options{}},
		"a chart": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				io.WriteString(w, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"},"layers":[]}`)
			}
			return manifests(r)
		}, ErrNoImage, `of the type "application/vnd.cncf.helm`, Options{}},
		"in circles": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			}
			return manifests(r)
		}, ErrRedirects, "sends us on more than 10 times", Options{}},
		"sent to where all can read": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				http.Redirect(w, r, "http://192.0.2.1/x", http.StatusTemporaryRedirect)
			}
			return manifests(r)
		}, ErrPlain, "192.0.2.1 has no TLS", Options{}},
		"silent": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifests(r) {
				<-r.Context().Done()
			}
			return manifests(r)
		}, ErrUnreachable, "nothing from", Options{Stall: 400 * time.Millisecond}},
		"silent in the middle": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, string(digest.FromBytes(l))) {
				return false
			}
			w.Write(l[:1000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}, ErrUnreachable, "nothing from", Options{Stall: 400 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, store := newServer(t), newStore(t)
			s.remoteImage(t, "x", "latest", here().Architecture, l)
			s.do(c.do)
			_, err := newClient(t, c.o).Pull(context.Background(), store, s.host+"/x", PullOptions{})
			if err == nil || c.state != nil && !errors.Is(err, c.state) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant %q", err, c.want)
			}
			if err != nil {
				t.Log(err)
			}
			if list, err := store.List(); len(list) > 0 || err != nil {
				t.Errorf("half an image is listed: %v, %v", list, err)
			}
			if n := s.count(""); n > 30 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	host := l.Addr().String()
	must(t, l.Close())
	_, err = newClient(t, Options{}).Pull(context.Background(), newStore(t), host+"/x", PullOptions{})
	if !errors.Is(err, ErrUnreachable) || err.Error() != "connect to "+host+": connection refused" {
		t.Error(err)
	}
	_, err = newClient(t, Options{}).Pull(context.Background(), newStore(t), "nosuch.invalid/x", PullOptions{})
	if !errors.Is(err, ErrUnreachable) || !strings.HasPrefix(err.Error(), "look up nosuch.invalid: ") {
		t.Error(err)
	}
}

// TestCancel: whoever is told to stop does, whatever the server does.
func TestCancel(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	stopped := errors.New("stopped")
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		cancel(stopped)
		<-r.Context().Done()
		return true
	})
	if _, err := newClient(t, Options{}).Pull(ctx, newStore(t), s.host+"/x", PullOptions{}); err != stopped {
		t.Error(err)
	}
}

// TestPassing: what passes is tried again.
func TestPassing(t *testing.T) {
	s, store := newServer(t), newStore(t)
	s.remoteImage(t, "x", "latest", here().Architecture, layer(t, "a", nil))
	failed := map[string]int{}
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if failed[r.URL.Path]++; failed[r.URL.Path] > 2 {
			return false
		}
		if failed[r.URL.Path] == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		panic(http.ErrAbortHandler) // hangs up
	})
	must(t, errOf(newClient(t, Options{}).Pull(context.Background(), store, s.host+"/x", PullOptions{})))
}
