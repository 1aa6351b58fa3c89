package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nslab/nslab/image"
)

// PushOptions are for [Client.Push].
type PushOptions struct {
	Progress func(PushProgress) // called by several goroutines; may be nil
}

// PushProgress is what happens to a layer.
type PushProgress struct {
	Layer   int // the lowest is 0
	DiffID  digest.Digest
	State   PushState
	From    string // for Mounted: the repository that had it
	Current int64
	Total   int64
}

// PushState is how far a layer is.
type PushState int

// The states of a layer.
const (
	Preparing PushState = iota
	Pushing
	Pushed
	Exists  // the repository had it
	Mounted // another repository had it
)

// Sent is what was pushed.
type Sent struct {
	Digest digest.Digest
	Size   int64 // of the manifest
}

// uploads is how many blobs are sent at a time.
const uploads = 4

// Push sends an image under one of its names. What the registry has it does not get again.
func (c *Client) Push(ctx context.Context, store *image.Store, ref string, o PushOptions) (*Sent, error) {
	n, err := image.ParseName(ref)
	if err != nil {
		return nil, err
	}
	if n.Digest != "" {
		return nil, &image.ReferenceError{Ref: ref, Why: "cannot push a digest reference"}
	}
	i, err := store.Resolve(n.String())
	if err != nil {
		return nil, err
	}
	data, err := store.Manifest(i)
	if err != nil {
		return nil, err
	}
	origins, err := store.Origins(n.Domain)
	if err != nil {
		return nil, err
	}
	u := &upload{c: c, store: store, i: i, o: o, origins: map[digest.Digest]string{}}
	var others []string
	for _, d := range i.Descriptors() {
		for _, from := range origins[d.Digest] {
			if from != n.Path {
				u.origins[d.Digest], others = from, append(others, from)
				break
			}
		}
	}
	if u.s, err = c.open(ctx, n, "push,pull", others...); err != nil {
		return nil, err
	}
	// Tries are counted here, where a wait can be interrupted.
	u.pusher, err = remote.NewPusher(remote.WithTransport(u.s.rt), remote.WithAuth(authn.Anonymous), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return nil, err
	}
	if err := u.blobs(ctx); err != nil {
		return nil, c.explain(ctx, n.Domain, err)
	}
	d := i.Descriptor()
	err = c.again(ctx, func() error {
		return u.pusher.Put(ctx, u.s.repo.Tag(n.Tag), rawManifest{data, types.MediaType(d.MediaType)})
	})
	if err != nil {
		return nil, c.explain(ctx, n.Domain, err)
	}
	byDigest := image.Name{Domain: n.Domain, Path: n.Path, Digest: d.Digest}
	return &Sent{d.Digest, d.Size}, store.NoteDigest(i, byDigest.String())
}

// rawManifest is a manifest as it is.
type rawManifest struct {
	data []byte
	kind types.MediaType
}

func (m rawManifest) RawManifest() ([]byte, error)        { return m.data, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return m.kind, nil }

// upload is an image on its way out.
type upload struct {
	c       *Client
	s       *session
	store   *image.Store
	i       *image.Image
	o       PushOptions
	pusher  *remote.Pusher
	origins map[digest.Digest]string
}

// blobs sends all layers and the config. The manifest comes after them: a registry takes none that names what it does not have.
func (u *upload) blobs(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	byDigest := map[digest.Digest][]int{}
	var order []ocispec.Descriptor
	for n, d := range slices.Backward(u.i.Descriptors()) { // as Docker lists them
		if byDigest[d.Digest] == nil {
			order = append(order, d)
		}
		byDigest[d.Digest] = append(byDigest[d.Digest], n)
		u.report([]int{n}, PushProgress{State: Preparing, Total: d.Size})
	}
	for _, d := range append(order, u.store.ConfigDescriptor(u.i)) {
		g.Go(func() error {
			err := u.c.again(ctx, func() error { return u.blob(ctx, d, byDigest[d.Digest]) })
			if err != nil {
				return u.c.explain(ctx, u.s.name.Domain, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (u *upload) report(layers []int, p PushProgress) {
	if u.o.Progress == nil {
		return
	}
	for _, n := range layers {
		p.Layer, p.DiffID = n, u.i.Config.RootFS.DiffIDs[n]
		u.o.Progress(p)
	}
}

// blob sends one blob, if the registry does not have it.
func (u *upload) blob(ctx context.Context, d ocispec.Descriptor, layers []int) error {
	b := &outgoing{u: u, d: d, layers: layers}
	var what v1.Layer = b
	from := u.origins[d.Digest]
	if from != "" {
		what = &remote.MountableLayer{Layer: b, Reference: u.s.repo.Registry.Repo(from).Tag("latest")}
	}
	var got outcome
	if err := u.pusher.Upload(context.WithValue(ctx, outcomeKey{}, &got), u.s.repo, what); err != nil {
		return err
	}
	state := Exists
	switch {
	case got.mounted:
		state = Mounted
	case b.opened:
		state = Pushed
	}
	u.report(layers, PushProgress{State: state, From: from, Current: d.Size, Total: d.Size})
	return nil
}

// outgoing is a blob as go-containerregistry wants it. Of a config it is the same.
type outgoing struct {
	u      *upload
	d      ocispec.Descriptor
	layers []int
	opened bool
}

func (b *outgoing) Digest() (v1.Hash, error) { return v1.NewHash(string(b.d.Digest)) }
func (b *outgoing) DiffID() (v1.Hash, error) { return b.Digest() } // nobody asks
func (b *outgoing) Size() (int64, error)     { return b.d.Size, nil }

// MediaType is always one that may be sent.
func (b *outgoing) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

// Uncompressed is for nobody.
func (b *outgoing) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

// Compressed gives the blob as it is.
func (b *outgoing) Compressed() (io.ReadCloser, error) {
	f, err := b.u.store.OpenBlob(b.d)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", image.ShortID(string(b.d.Digest)), err)
	}
	b.opened = true
	return &outgoingReader{ReadCloser: f, b: b}, nil
}

// outgoingReader tells how far it is.
type outgoingReader struct {
	io.ReadCloser
	b *outgoing
	n int64
}

func (r *outgoingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	r.b.u.report(r.b.layers, PushProgress{State: Pushing, Current: r.n, Total: r.b.d.Size})
	return n, err
}

// outcome is what the answers to an upload say that the library keeps to itself. It travels with the context of the requests.
type outcome struct{ mounted bool }

type outcomeKey struct{}

// note looks at an answer.
func note(req *http.Request, resp *http.Response) {
	got, ok := req.Context().Value(outcomeKey{}).(*outcome)
	if ok && req.Method == http.MethodPost && resp.StatusCode == http.StatusCreated && strings.Contains(req.URL.RawQuery, "mount=") {
		got.mounted = true
	}
}
