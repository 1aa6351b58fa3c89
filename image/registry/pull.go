package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/image"
)

// PullOptions are for [Client.Pull].
type PullOptions struct {
	Platform string               // "linux/arm64"; empty: this machine's
	Found    func()               // called when it is known that there is such an image; may be nil
	Progress func(image.Progress) // see [image.Incoming]
}

// Pulled is what came.
type Pulled struct {
	Image   *image.Image
	Digest  digest.Digest // of what the name stands for: an index, where there are several platforms
	Changed bool          // the name stands for another image than before
}

// maxIndexes is how many indexes may lead to an image.
const maxIndexes = 3

// Pull puts an image from a registry into the store, under its name and its name by digest.
func (c *Client) Pull(ctx context.Context, store *image.Store, ref string, o PullOptions) (*Pulled, error) {
	n, err := image.ParseName(ref)
	if err != nil {
		return nil, err
	}
	want, err := image.ParsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	s, err := c.open(ctx, n, "pull")
	if err != nil {
		return nil, err
	}
	tag := n.Tag
	if n.Digest != "" { // which says more
		tag, n.Tag = string(n.Digest), ""
	}
	m, err := s.manifest(ctx, tag)
	if err != nil {
		return nil, err
	}
	p := &Pulled{Digest: m.digest}
	for depth := 0; isIndex(m.mediaType); depth++ {
		d, err := choose(m.data, want)
		if err != nil {
			return nil, err
		}
		if depth == maxIndexes || digest.Digest(d.Digest).Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
			return nil, fmt.Errorf("the index leads to no image: %w", ErrNoImage)
		}
		if m, err = s.manifest(ctx, string(d.Digest)); err != nil {
			return nil, err
		}
		if d.Size != int64(len(m.data)) {
			return nil, fmt.Errorf("manifest has %d bytes, %d were announced: %w", len(m.data), d.Size, image.ErrContent)
		}
	}
	if err := isImage(m.data); err != nil {
		return nil, err
	}
	if o.Found != nil {
		o.Found()
	}
	byDigest := image.Name{Domain: n.Domain, Path: n.Path, Digest: p.Digest}
	in := image.Incoming{
		Names: []string{byDigest.String()}, Manifest: m.data, MediaType: m.mediaType, Open: s.blob, Progress: o.Progress,
		Check: func(i *image.Image) error { return checkPlatform(i, want) },
	}
	if n.Tag != "" {
		in.Names = []string{n.String(), byDigest.String()}
	}
	p.Image, p.Changed, err = store.Receive(ctx, in)
	return p, c.explain(ctx, n.Domain, err)
}

// isImage refuses what registries keep besides images: charts, signatures, and so on.
func isImage(data []byte) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("the manifest cannot be read: %w: %w", err, ErrNoImage)
	}
	switch m.Config.MediaType {
	case "", ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json", "application/octet-stream":
		return nil
	}
	return fmt.Errorf("it is of the type %.100q: %w", m.Config.MediaType, ErrNoImage)
}

// Limits of a list of tags.
const (
	maxTags     = 10_000
	maxTagsPage = 1 << 20
)

// Tags lists the tags that a repository has.
func (c *Client) Tags(ctx context.Context, ref string) ([]string, error) {
	n, err := image.ParseName(ref)
	if err != nil {
		return nil, err
	}
	s, err := c.open(ctx, n, "pull")
	if err != nil {
		return nil, err
	}
	var tags []string
	for path := "tags/list"; path != ""; {
		data, resp, err := s.small(ctx, path, nil, maxTagsPage)
		if err != nil {
			return nil, err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(data, &page); err != nil {
			return nil, fmt.Errorf("%s: the list of tags cannot be read: %w", n.Domain, err)
		}
		tags = append(tags, page.Tags...)
		if path = nextPage(resp); path != "" && (len(tags) > maxTags || len(page.Tags) == 0) {
			return nil, fmt.Errorf("%s has more than %d tags of %s: %w", n.Domain, maxTags, n.Repository(), image.ErrContent)
		}
	}
	return tags, nil
}

// nextPage is where a list goes on: `Link: </v2/a/tags/list?last=x>; rel="next"`, RFC 8288.
func nextPage(resp *http.Response) string {
	link, params, ok := strings.Cut(resp.Header.Get("Link"), ">")
	if !ok || !strings.HasPrefix(link, "<") || !strings.Contains(params, "next") {
		return ""
	}
	u, err := resp.Request.URL.Parse(link[1:])
	if err != nil || u.Host != resp.Request.URL.Host {
		return ""
	}
	return u.RequestURI()
}
