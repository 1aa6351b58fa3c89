package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nslab/nslab/image"
)

// built is an image of this store.
func built(t testing.TB, s *image.Store, name string, layers ...[]byte) *image.Image {
	t.Helper()
	var i *image.Image
	for n, l := range layers {
		o := image.CommitOptions{}
		if n == len(layers)-1 {
			o.Names = []string{name}
		}
		var err error
		i, err = s.Commit(context.Background(), i, func(w io.Writer) error { _, err := w.Write(l); return err }, o)
		must(t, err)
	}
	return i
}

func TestPush(t *testing.T) {
	s, store, c := newServer(t), newStore(t), newClient(t, Options{})
	one, two := layer(t, "one", noise(100_000)), layer(t, "two", []byte("2"))
	i := built(t, store, s.host+"/a/b:v1", one, two, one)
	var mu sync.Mutex
	states := map[int][]PushState{}
	o := PushOptions{Progress: func(p PushProgress) {
		mu.Lock()
		defer mu.Unlock()
		if n := len(states[p.Layer]); n == 0 || states[p.Layer][n-1] != p.State {
			states[p.Layer] = append(states[p.Layer], p.State)
		}
	}}
	sent, err := c.Push(context.Background(), store, s.host+"/a/b:v1", o)
	must(t, err)
	if sent.Digest != i.Descriptor().Digest || sent.Size != i.Descriptor().Size || s.count("PATCH") != 3 {
		t.Errorf("%+v; requests %q", sent, s.seen)
	}
	if got := states[0]; len(got) != 3 || got[2] != Pushed {
		t.Errorf("states %v", states)
	}
	i, err = store.Resolve(i.ID)
	must(t, err)
	if want := s.host + "/a/b:v1 " + s.host + "/a/b@" + string(sent.Digest); names(i) != want {
		t.Errorf("names %s, want %s", names(i), want)
	}
	// Again, and under another tag: nothing is sent.
	must(t, store.Tag(i, s.host+"/a/b:v2"))
	s.do(nil)
	clear(states)
	must(t, errOf(c.Push(context.Background(), store, s.host+"/a/b:v2", o)))
	if s.count("PATCH") != 0 || states[0][len(states[0])-1] != Exists {
		t.Errorf("states %v, requests %q", states, s.seen)
	}
	// What another has pulled is what was pushed.
	p, err := c.Pull(context.Background(), newStore(t), s.host+"/a/b:v2", PullOptions{})
	must(t, err)
	if p.Image.ID != i.ID || p.Digest != sent.Digest {
		t.Errorf("%s, %s", p.Image.ID, p.Digest)
	}
}

// TestPushMounts: a layer that another repository has is not sent. The registry of the tests says so or not, as told.
func TestPushMounts(t *testing.T) {
	for name, can := range map[string]bool{"can": true, "cannot": false} {
		t.Run(name, func(t *testing.T) {
			s, store, c := newServer(t), newStore(t), newClient(t, Options{})
			l := layer(t, "one", noise(100_000))
			i := built(t, store, s.host+"/a:v1", l)
			must(t, errOf(c.Push(context.Background(), store, s.host+"/a:v1", PushOptions{})))
			must(t, store.Tag(i, s.host+"/b/c:v1"))
			s.do(func(w http.ResponseWriter, r *http.Request) bool {
				q := r.URL.Query()
				switch {
				case r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/b/c/blobs/"): // its blobs are for all repositories
					w.WriteHeader(http.StatusNotFound)
					return true
				case q.Get("mount") == "":
					return false
				case can && q.Get("from") == "a" && q.Get("mount") == string(digest.FromBytes(l)):
					w.WriteHeader(http.StatusCreated)
					return true
				}
				r.URL.RawQuery, r.RequestURI = "", r.URL.Path
				return false
			})
			var last PushProgress
			_, err := c.Push(context.Background(), store, s.host+"/b/c:v1", PushOptions{Progress: func(p PushProgress) { last = p }})
			must(t, err)
			want, patches := PushProgress{State: Mounted, From: "a"}, 1 // of the config
			if !can {
				want, patches = PushProgress{State: Pushed, From: "a"}, 2
			}
			if last.State != want.State || last.State == Mounted && last.From != "a" || s.count("PATCH") != patches {
				t.Errorf("%+v; requests %q", last, s.seen)
			}
		})
	}
}

func TestPushErrors(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(s *server) func(w http.ResponseWriter, r *http.Request) bool
		state error
		want  string
	}{
		"unauthorized": {func(*server) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost {
					http.Error(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`, http.StatusForbidden)
				}
				return r.Method == http.MethodPost
			}
		}, ErrUnauthorized, "requested access to the resource is denied"},
		"cut": {func(*server) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					panic(http.ErrAbortHandler)
				}
				return false
			}
		}, ErrUnreachable, "hangs up"},
		"silent": {func(*server) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut {
					<-r.Context().Done()
				}
				return r.Method == http.MethodPut
			}
		}, ErrUnreachable, "nothing from"},
		"in circles": {func(*server) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodHead {
					http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
				}
				return r.Method == http.MethodHead
			}
		}, ErrRedirects, "sends us on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, store := newServer(t), newStore(t)
			built(t, store, s.host+"/x:latest", layer(t, "one", noise(100_000)))
			s.do(c.do(s))
			_, err := newClient(t, Options{Stall: 400 * time.Millisecond}).Push(context.Background(), store, s.host+"/x", PushOptions{})
			if !errors.Is(err, c.state) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant %q", err, c.want)
			}
			if n := s.count(""); n > 60 {
				t.Errorf("%d requests", n)
			}
		})
	}
	c := newClient(t, Options{})
	if _, err := c.Push(context.Background(), newStore(t), "localhost:1/x", PushOptions{}); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
	if _, err := c.Push(context.Background(), newStore(t), "x@sha256:"+strings.Repeat("0", 64), PushOptions{}); !errors.Is(err, image.ErrReference) {
		t.Error(err)
	}
}

// TestPushAgain: an upload that is cut off is done again.
func TestPushAgain(t *testing.T) {
	s, store, c := newServer(t), newStore(t), newClient(t, Options{})
	built(t, store, s.host+"/x:latest", layer(t, "one", noise(3<<20)))
	cut := 0
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && r.ContentLength > 1<<20 && cut < 2 {
			cut++
			io.CopyN(io.Discard, r.Body, 1<<20)
			panic(http.ErrAbortHandler)
		}
		return false
	})
	must(t, errOf(c.Push(context.Background(), store, s.host+"/x", PushOptions{})))
	must(t, errOf(c.Pull(context.Background(), newStore(t), s.host+"/x", PullOptions{})))
}

// guarded lets only those in who have a token, which is given out for a password.
func guarded(s *server, user, password string) {
	const token = "the-token"
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			if u, p, _ := r.BasicAuth(); u != user || p != password {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			io.WriteString(w, `{"token":"`+token+`"}`)
			return true
		case r.Header.Get("Authorization") != "Bearer "+token:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return true
		}
		return false
	})
}

// basic lets only those in who show the password each time.
func basic(s *server, user, password string) {
	s.do(func(w http.ResponseWriter, r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		if u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

func TestLogin(t *testing.T) {
	for name, guard := range map[string]func(*server, string, string){"token": guarded, "basic": basic} {
		t.Run(name, func(t *testing.T) {
			s, store, dir := newServer(t), newStore(t), t.TempDir()
			s.remoteImage(t, "x", "latest", here().Architecture, layer(t, "a", nil))
			guard(s, "gopher", "se:cret")
			file := filepath.Join(dir, "config.json")
			must(t, os.WriteFile(file, []byte(`{"psFormat":"kept","auths":{"other":{"auth":"YTpi"}}}`), 0o644))
			c := newClient(t, Options{ConfigDir: dir})
			ctx := context.Background()
			if _, err := c.Pull(ctx, store, s.host+"/x", PullOptions{}); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("without a login: %v", err)
			}
			if err := c.Login(ctx, s.host, "gopher", "wrong"); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("with the wrong password: %v", err)
			}
			must(t, c.Login(ctx, s.host, "gopher", "se:cret"))
			text, err := os.ReadFile(file)
			must(t, err)
			st, err := os.Stat(file)
			must(t, err)
			auth := base64.StdEncoding.EncodeToString([]byte("gopher:se:cret"))
			if !bytes.Contains(text, []byte(auth)) || !bytes.Contains(text, []byte("YTpi")) || !bytes.Contains(text, []byte("kept")) || st.Mode() != 0o600 {
				t.Errorf("%s %s", st.Mode(), text)
			}
			must(t, c.Check(ctx, s.host))
			must(t, errOf(c.Pull(ctx, store, s.host+"/x", PullOptions{})))
			must(t, c.Logout(ctx, s.host))
			if text, _ := os.ReadFile(file); bytes.Contains(text, []byte(auth)) || !bytes.Contains(text, []byte("YTpi")) {
				t.Errorf("after a logout: %s", text)
			}
			must(t, c.Logout(ctx, s.host))
			if left, _ := filepath.Glob(dir + "/*"); len(left) != 1 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestHelper: a helper is asked, told, and told to forget; one that hangs holds up nobody who wants to stop.
func TestHelper(t *testing.T) {
	s, dir, bin := newServer(t), t.TempDir(), t.TempDir()
	basic(s, "gopher", "secret")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	script := func(name, text string) {
		must(t, os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+text), 0o755))
	}
	script("notes", `case $1 in
store) cat > `+dir+`/stored ;;
get) read server; test -f `+dir+`/stored && cat `+dir+`/stored || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm -f `+dir+`/stored ;;
esac
`)
	file := filepath.Join(dir, "config.json")
	must(t, os.WriteFile(file, []byte(`{"credHelpers":{"`+s.host+`":"notes"}}`), 0o600))
	c, ctx := newClient(t, Options{ConfigDir: dir}), context.Background()
	if err := c.Check(ctx, s.host); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	must(t, c.Login(ctx, s.host, "gopher", "secret"))
	if text, _ := os.ReadFile(file); bytes.Contains(text, []byte("auth\"")) {
		t.Errorf("the password is in the file: %s", text)
	}
	must(t, c.Check(ctx, s.host))
	must(t, c.Logout(ctx, s.host))
	if _, err := os.Stat(dir + "/stored"); err == nil {
		t.Error("the helper was not told")
	}

	script("hangs", "exec sleep 1000\n")
	must(t, os.WriteFile(file, []byte(`{"credsStore":"hangs"}`), 0o600))
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := c.Check(ctx, s.host); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600))
	c := newClient(t, Options{ConfigDir: dir})
	var bad *ConfigError
	for _, err := range []error{
		errOf(c.Pull(context.Background(), newStore(t), "localhost:1/x", PullOptions{})), c.Logout(context.Background(), "localhost:1"),
	} {
		if !errors.As(err, &bad) || strings.Contains(err.Error(), "\n") {
			t.Error(err)
		}
	}
}

func TestServerName(t *testing.T) {
	for in, want := range map[string]string{
		"": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io", "localhost:5000": "localhost:5000",
		"http://a.b:1/v2/": "a.b:1", "[::1]:5000": "[::1]:5000",
	} {
		if got, err := ServerName(in); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"a b", "a\nb", "/", "user@host", "http://", "a?b", "a:x"} {
		if got, err := ServerName(in); !errors.Is(err, image.ErrReference) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// TestPlain: who is not asked for it does not talk to a server without TLS, unless it is this machine.
func TestPlain(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "[::1]": true, "a.localhost": true, "10.0.0.1": false, "192.168.1.1": false,
		"localhost.example.com": false, "example.com": false, "[fe80::1]": false,
	} {
		if got := isLoopback(hostOf(host + ":5000")); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
	req, err := http.NewRequest(http.MethodGet, "http://192.0.2.1/v2/", nil)
	must(t, err)
	if _, err := (guard{newClient(t, Options{})}).RoundTrip(req); !errors.Is(err, ErrPlain) {
		t.Error(err)
	}
}
