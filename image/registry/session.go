package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/image"
)

// session is a repository that we may do something with.
type session struct {
	c    *Client
	name image.Name
	repo name.Repository
	rt   http.RoundTripper // has the token
	http *http.Client
}

// open asks a registry what it wants, and gets a token for a repository. actions are those of the token, "pull" or
// "push,pull"; others are repositories that we want to read as well.
func (c *Client) open(ctx context.Context, n image.Name, actions string, others ...string) (*session, error) {
	reg, err := c.registry(n.Domain)
	if err != nil {
		return nil, err
	}
	auth, err := c.authenticator(ctx, n.Domain)
	if err != nil {
		return nil, err
	}
	s := &session{c: c, name: n, repo: reg.Repo(n.Path)}
	scopes := []string{s.repo.Scope(actions)}
	for _, o := range others {
		scopes = append(scopes, reg.Repo(o).Scope(transport.PullScope))
	}
	err = c.again(ctx, func() (err error) {
		s.rt, err = transport.NewWithContext(ctx, reg, auth, c.agent(), scopes)
		return err
	})
	if err != nil {
		return nil, c.explain(ctx, n.Domain, err)
	}
	s.http = &http.Client{Transport: s.rt, CheckRedirect: noDowngrade}
	return s, nil
}

func (c *Client) registry(domain string) (name.Registry, error) {
	var o []name.Option
	if c.o.Insecure || isLoopback(hostOf(domain)) {
		o = append(o, name.Insecure) // TLS is tried first
	}
	reg, err := name.NewRegistry(domain, o...)
	if err != nil {
		return reg, &image.ReferenceError{Ref: domain, Why: "no registry has such a name"}
	}
	return reg, nil
}

func hostOf(domain string) string { return (&url.URL{Host: domain}).Hostname() }

// agent is the transport below go-containerregistry's.
func (c *Client) agent() http.RoundTripper {
	if c.o.UserAgent == "" {
		return guard{c}
	}
	return transport.NewUserAgent(guard{c}, c.o.UserAgent)
}

// noDowngrade follows a redirect, but not from TLS to where there is none. The guard counts.
func noDowngrade(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
		return &PlainError{req.URL.Host}
	}
	return nil
}

// get sends a request, several times if need be. The caller closes the body.
func (s *session) get(ctx context.Context, path string, header http.Header, codes ...int) (resp *http.Response, err error) {
	u := url.URL{Scheme: s.repo.Scheme(), Host: s.repo.RegistryStr()}
	path, u.RawQuery, _ = strings.Cut(path, "?")
	if u.Path = path; !strings.HasPrefix(path, "/") {
		u.Path = "/v2/" + s.repo.RepositoryStr() + "/" + path
	}
	err = s.c.again(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return err
		}
		req.Header = header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		if resp, err = s.http.Do(req); err != nil {
			return err
		}
		if err = transport.CheckError(resp, codes...); err != nil {
			resp.Body.Close()
		}
		return err
	})
	return resp, s.c.explain(ctx, s.name.Domain, err)
}

// small reads an answer that fits into memory.
func (s *session) small(ctx context.Context, path string, header http.Header, limit int64) (data []byte, resp *http.Response, err error) {
	err = s.c.again(ctx, func() error {
		if resp, err = s.get(ctx, path, header, http.StatusOK); err != nil {
			return err
		}
		defer resp.Body.Close()
		data, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
		return err
	})
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s sends more than %d bytes: %w", s.name.Domain, limit, image.ErrContent)
	}
	return data, resp, s.c.explain(ctx, s.name.Domain, err)
}

// manifest is a manifest, or an index of several.
type manifest struct {
	data      []byte
	mediaType string
	digest    digest.Digest
}

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// manifest fetches what a tag or a digest stands for.
func (s *session) manifest(ctx context.Context, ref string) (m manifest, err error) {
	accept := []string{ocispec.MediaTypeImageManifest, dockerManifest, ocispec.MediaTypeImageIndex, dockerList}
	data, resp, err := s.small(ctx, "manifests/"+ref, http.Header{"Accept": {strings.Join(accept, ", ")}}, image.MaxManifest)
	if err != nil {
		return m, err
	}
	m = manifest{data: data, digest: digest.FromBytes(data)}
	if want := digest.Digest(ref); strings.Contains(ref, ":") && m.digest != want {
		return m, fmt.Errorf("manifest is %s, not %s: %w", m.digest, want, image.ErrContent)
	}
	m.mediaType, err = kindOf(data, resp.Header.Get("Content-Type"))
	return m, err
}

// blob gives a blob from an offset on. If the line is cut, it goes on where that happened.
func (s *session) blob(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	b := &blobReader{s: s, ctx: ctx, d: d, at: offset}
	if err := b.connect(); err != nil {
		return nil, err
	}
	return b, nil
}

// blobReader reads a blob, and connects again as long as something comes each time.
type blobReader struct {
	s    *session
	ctx  context.Context
	d    ocispec.Descriptor
	at   int64
	body io.ReadCloser
	vain int // tries since the last byte
}

// connect asks for what is still to come.
func (b *blobReader) connect() error {
	header, codes := http.Header{}, []int{http.StatusOK}
	if b.at > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.at, b.d.Size-1))
		codes = append(codes, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	}
	resp, err := b.s.get(b.ctx, "blobs/"+string(b.d.Digest), header, codes...)
	if err == nil && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		resp.Body.Close()
		resp, err = b.s.get(b.ctx, "blobs/"+string(b.d.Digest), nil, http.StatusOK)
	}
	if err != nil {
		return err
	}
	b.body = resp.Body
	if err := b.skip(resp); err != nil {
		return errors.Join(err, b.body.Close())
	}
	return nil
}

// skip goes to where we want to read. A server that knows no ranges sends it all, RFC 9110 section 14.2.
func (b *blobReader) skip(resp *http.Response) (err error) {
	begins := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		if begins, err = rangeStart(resp.Header.Get("Content-Range")); err != nil || begins > b.at {
			return fmt.Errorf("%s sends another range than was asked for: %w", b.s.name.Domain, image.ErrContent)
		}
	}
	if n := resp.ContentLength; n >= 0 && begins+n != b.d.Size {
		return fmt.Errorf("it has %d bytes, %d were announced: %w", begins+n, b.d.Size, image.ErrContent)
	}
	_, err = io.CopyN(io.Discard, b.body, b.at-begins)
	return b.s.c.explain(b.ctx, b.s.name.Domain, err)
}

// rangeStart reads "bytes 100-199/200".
func rangeStart(text string) (n int64, err error) {
	var last int64
	if _, err := fmt.Sscanf(text, "bytes %d-%d/", &n, &last); err != nil || n < 0 || last < n {
		return 0, fmt.Errorf("%.50q is no range", text)
	}
	return n, nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		if n > 0 {
			b.at, b.vain = b.at+int64(n), 0
			return n, nil
		}
		if err == nil || errors.Is(err, io.EOF) && b.at >= b.d.Size {
			return 0, err
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		b.vain++
		if !passes(err) || b.vain >= tries {
			return 0, b.s.c.explain(b.ctx, b.s.name.Domain, err)
		}
		if err := wait(b.ctx, b.s.c.o.Pause<<(b.vain-1)); err != nil {
			return 0, err
		}
		b.body.Close()
		if err := b.connect(); err != nil {
			b.body = io.NopCloser(bytes.NewReader(nil))
			return 0, err
		}
	}
}

func (b *blobReader) Close() error { return b.body.Close() }
