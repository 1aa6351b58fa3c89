package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// maxRedirects is how often a request may be sent elsewhere.
const maxRedirects = 10

func dialer(stall time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: min(stall, 30*time.Second), KeepAlive: 30 * time.Second}
}

// isLoopback says whether a host is this machine, where nobody else can listen in. Docker sees it the same way.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// guard is below everything that talks to a registry. It holds what must hold for each request, whoever sends it and
// wherever a registry has sent us: no plain HTTP but where it is allowed, no endless redirects, and nobody waits for ever.
type guard struct{ c *Client }

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	host, port := req.URL.Hostname(), req.URL.Port()
	switch {
	case req.URL.Scheme == "http" && port == "":
		port = "80"
	case port == "":
		port = "443"
	}
	if req.URL.Scheme == "http" && !g.c.o.Insecure && !isLoopback(host) {
		return nil, &PlainError{req.URL.Host}
	}
	if redirects(req) > maxRedirects {
		return nil, ErrRedirects
	}
	base, err := g.c.base(host, port)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	watch := newWatchdog(g.c.o.Stall, func() { cancel(&StallError{req.URL.Host, g.c.o.Stall}) })
	sent := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		sent.Body = &sentBody{req.Body, watch}
	}
	resp, err := base.RoundTrip(sent)
	watch.answer()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	note(req, resp)
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: watch, ctx: ctx, done: func() { cancel(nil) }}
	return resp, nil
}

// redirects counts how often a request was sent on: each has the answer that led to it.
func redirects(req *http.Request) (n int) {
	for n <= maxRedirects && req.Response != nil && req.Response.Request != nil {
		req, n = req.Response.Request, n+1
	}
	return n
}

// watchdog barks if nothing happens for too long between begin and end.
type watchdog struct {
	after time.Duration
	timer *time.Timer

	mu       sync.Mutex
	answered bool // the request is over, though the last of it may still be read
}

func newWatchdog(after time.Duration, bark func()) *watchdog {
	return &watchdog{after: after, timer: time.AfterFunc(after, bark)}
}

func (w *watchdog) begin() { w.timer.Reset(w.after) }
func (w *watchdog) end()   { w.timer.Stop() }

// sent says that the other end has taken something.
func (w *watchdog) sent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.answered {
		w.begin()
	}
}

func (w *watchdog) answer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = true
	w.end()
}

// sentBody is what we send. Each time that more of it is wanted, the other end has taken what was read before.
type sentBody struct {
	io.ReadCloser
	watch *watchdog
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.sent()
	return b.ReadCloser.Read(p)
}

// watchedBody is what comes. How long we ourselves take between two reads is nobody's business.
type watchedBody struct {
	io.ReadCloser
	watch *watchdog
	ctx   context.Context
	done  func()
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.begin()
	n, err := b.ReadCloser.Read(p)
	b.watch.end()
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.watch.end()
	b.done()
	return err
}

// addCerts reads a registry's folder, as Docker has it: *.crt are authorities that are trusted for it, *.cert and *.key what we
// show it. A folder that is not there says nothing.
func addCerts(config *tls.Config, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read certificates: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			pem, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("read certificates: %w", err)
			}
			if config.RootCAs == nil {
				if config.RootCAs, err = x509.SystemCertPool(); err != nil {
					config.RootCAs = x509.NewCertPool()
				}
			}
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				return fmt.Errorf("read certificates: %s has none", path)
			}
			config.InsecureSkipVerify = false // whoever gives a certificate wants it looked at
		case ".cert":
			pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
			if err != nil {
				return fmt.Errorf("read certificates: %w", err)
			}
			config.Certificates = append(config.Certificates, pair)
		}
	}
	return nil
}
