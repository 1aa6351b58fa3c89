package suite

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
)

// startRegistry is the command of scripts `registry VAR [OPTION=VALUE…]`: a registry on this machine, until the script ends,
// whose address VAR holds. Called again with the same VAR, it is the same registry with other options:
//
//	user=NAME:PASSWORD  who may come in; others are asked for a password
//	log=FILE            a line for each request: what, where, and of which part
//	cut=BYTES           an answer with a blob ends after so many bytes, and the line with it
//	hang=BYTES          the same, but then nothing happens any more
//	spoil=1             a byte in the middle of each blob is another one
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: registry VAR [OPTION=VALUE...]")
	}
	r, ok := registries.of(ts, args[0])
	if !ok {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		server := &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0)}
		go server.Serve(l)
		ts.Defer(func() {
			server.Close()
			registries.forget(ts)
		})
		ts.Setenv(args[0], l.Addr().String())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.options = map[string]string{}
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(a, "=")
		r.options[name] = value
		switch name {
		case "user", "spoil":
		case "log":
			r.options[name] = ts.MkAbs(value)
			ts.Check(os.WriteFile(r.options[name], nil, 0o644))
		case "cut", "hang":
			_, err := strconv.Atoi(value)
			ts.Check(err)
		default:
			ts.Fatalf("registry: no option is called %s", name)
		}
	}
}

// running are the registries of the scripts that run.
type running struct {
	mu   sync.Mutex
	list map[*testscript.TestScript]map[string]*testRegistry
}

var registries running

func (r *running) of(ts *testscript.TestScript, name string) (*testRegistry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list = map[*testscript.TestScript]map[string]*testRegistry{}
	}
	if r.list[ts] == nil {
		r.list[ts] = map[string]*testRegistry{}
	}
	found, ok := r.list[ts][name]
	if !ok {
		found = &testRegistry{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
		r.list[ts][name] = found
	}
	return found, ok
}

func (r *running) forget(ts *testscript.TestScript) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.list, ts)
}

// testRegistry is go-containerregistry's, and what can go wrong on the way to it.
type testRegistry struct {
	inner   http.Handler
	mu      sync.Mutex
	options map[string]string
}

func (r *testRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	o := r.options
	if name := o["log"]; name != "" {
		if f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			fmt.Fprintln(f, strings.TrimSpace(req.Method+" "+req.URL.Path+" "+req.Header.Get("Range")))
			f.Close()
		}
	}
	r.mu.Unlock()
	if want, ok := o["user"]; ok {
		if user, password, _ := req.BasicAuth(); user+":"+password != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	if req.Method == http.MethodGet && path.Base(path.Dir(req.URL.Path)) == "blobs" {
		w = &spoiler{ResponseWriter: w, req: req, o: o}
	}
	r.inner.ServeHTTP(w, req)
}

// spoiler is in the way of a blob. The small ones, configs, get through: it would be over before it has begun.
type spoiler struct {
	http.ResponseWriter
	req  *http.Request
	o    map[string]string
	sent int
}

const smallBlob = 4096

func (s *spoiler) Write(b []byte) (int, error) {
	length, _ := strconv.Atoi(s.Header().Get("Content-Length"))
	if length <= smallBlob {
		return s.ResponseWriter.Write(b)
	}
	if s.o["spoil"] != "" && s.sent <= length/2 && length/2 < s.sent+len(b) {
		b = bytes.Clone(b)
		b[length/2-s.sent] ^= 1
	}
	for _, how := range []string{"cut", "hang"} {
		limit, err := strconv.Atoi(s.o[how])
		if err != nil || s.sent+len(b) < limit {
			continue
		}
		s.ResponseWriter.Write(b[:limit-s.sent])
		s.ResponseWriter.(http.Flusher).Flush()
		if how == "hang" {
			<-s.req.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	n, err := s.ResponseWriter.Write(b)
	s.sent += n
	return n, err
}
