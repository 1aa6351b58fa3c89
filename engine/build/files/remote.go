package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// content is a file that is not in the context: a download, or a heredoc.
type content struct {
	at   io.ReaderAt
	file *os.File // a download's, without a name
	size int64
	sum  [sha256.Size]byte
	mode uint32
	time time.Time // zero: when it is copied
}

func inlineContent(i Inline) (*content, error) {
	if i.Name == "" || i.Name == "." || i.Name == ".." || strings.ContainsAny(i.Name, "/\x00") {
		return nil, refuse("", "heredoc %s: not the name of a file", quoted(i.Name))
	}
	return &content{at: bytes.NewReader(i.Content), size: int64(len(i.Content)), sum: sha256.Sum256(i.Content), mode: 0o644}, nil
}

// unnamed makes a file that is gone when it is closed, or when this process is killed.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".nslab-build-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

const (
	maxDownload = 64 << 30
	maxStill    = 60 * time.Second // without a byte
)

func isAddress(text string) bool {
	return hasPrefixFold(text, "http://") || hasPrefixFold(text, "https://")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// isGit tells whether Docker would take a source for a repository.
func isGit(text string) bool {
	if hasPrefixFold(text, "git://") || hasPrefixFold(text, "ssh://") || strings.HasPrefix(text, "git@") {
		return true
	}
	if !isAddress(text) {
		return strings.HasPrefix(text, "github.com/")
	}
	u, err := url.Parse(text)
	return err == nil && strings.HasSuffix(u.Path, ".git")
}

// download fetches an address that ADD names.
func (p *Plan) download(ctx context.Context, address string) error {
	c, err := fetch(ctx, p.in.Client, address, p.in.Scratch)
	if err != nil {
		return err
	}
	p.close = append(p.close, c.file)
	if want := digest.Digest(p.in.Checksum); want != "" {
		if err := c.verify(want, address); err != nil {
			return err
		}
	}
	name := "__unnamed__" // buildkit's word
	if u, err := url.Parse(address); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" && base != ".." && !strings.ContainsRune(base, 0) {
			name = base
		}
	}
	p.sources = append(p.sources, source{name: name, content: c, unpack: p.in.Unpack != nil && *p.in.Unpack})
	return nil
}

func (c *content) verify(want digest.Digest, address string) error {
	got := digest.NewDigestFromBytes(digest.SHA256, c.sum[:])
	if want.Algorithm() != digest.SHA256 {
		h := want.Algorithm().Hash()
		if _, err := io.Copy(h, c.reader()); err != nil {
			return err
		}
		got = digest.NewDigest(want.Algorithm(), h)
	}
	if got != want {
		return refuse("", "digest mismatch for %s: %s (expected: %s)", quoted(withoutPassword(address)), got, want)
	}
	return nil
}

// withoutPassword is an address as it may be shown.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Redacted()
}

// newClient gives up on a server that does not answer, and not on a long file.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: maxStill,
		DisableKeepAlives:     true,
	}}
}

// fetch downloads into a file without a name.
func fetch(ctx context.Context, client *http.Client, address, dir string) (_ *content, err error) {
	if client == nil {
		client = newClient()
	}
	shown := withoutPassword(address)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, refuse("", "invalid address %s", quoted(shown))
	}
	// What the server has compressed for the way would be unpacked, and then not be what its checksum is of.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "nslab")
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // whose text has the address in it, password and all
		}
		return nil, &Error{Text: "download " + quoted(shown), Err: err, Hint: "this machine must reach the address, or download it first and COPY it"}
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return nil, refuse("", "invalid response status %d for %s", resp.StatusCode, quoted(shown))
	}
	f, err := unnamed(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	c := &content{at: f, file: f, mode: 0o600, time: time.Unix(0, 0)}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		c.time = t
	}
	still := time.AfterFunc(maxStill, func() { cancel(fmt.Errorf("nothing came for %v", maxStill)) })
	defer still.Stop()
	sum := sha256.New()
	c.size, err = io.Copy(io.MultiWriter(f, sum, writerFunc(func() { still.Reset(maxStill) })), io.LimitReader(resp.Body, maxDownload+1))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err == nil && c.size > maxDownload {
		err = fmt.Errorf("more than %d bytes", int64(maxDownload))
	}
	if err != nil {
		return nil, &Error{Text: "download " + quoted(shown), Err: err}
	}
	sum.Sum(c.sum[:0])
	return c, nil
}

// writerFunc is told that something was written.
type writerFunc func()

func (f writerFunc) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}

func (c *content) reader() *io.SectionReader { return io.NewSectionReader(c.at, 0, c.size) }
