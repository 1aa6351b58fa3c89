package files

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// Instruction is a COPY or an ADD whose variables have been replaced.
type Instruction struct {
	Add     bool
	Sources []string
	Inline  []Inline // heredocs, after the sources
	Dest    string   // as written: its trailing slash has a meaning
	Workdir string   // of the stage; empty: /

	Chown    string   // "user:group", names or numbers
	Chmod    string   // "0755", "u=rwX,go=rX"
	Exclude  []string // patterns as in .dockerignore
	Parents  bool
	Link     bool   // accepted: here every layer is independent already
	Checksum string // ADD of an address: "sha256:…"
	Unpack   *bool  // ADD --unpack; nil: archives of the context are unpacked, those of an address are not

	Epoch   *time.Time   // SOURCE_DATE_EPOCH: no file is younger than that
	Scratch string       // a folder for downloads
	Client  *http.Client // see [Options]
}

// Inline is a file whose content stands in the Dockerfile.
type Inline struct {
	Name    string
	Content []byte
}

// Plan is an instruction with the files that it means.
type Plan struct{}

// Resolve finds the sources of an instruction. Each must be there, and what is an address is downloaded.
func (in Instruction) Resolve(ctx context.Context, from *Root) (*Plan, error) {
	return nil, errors.ErrUnsupported
}

// Digest is of all that the instruction makes, wherever it makes it: of the files, and of the instruction itself.
func (p *Plan) Digest(ctx context.Context) (digest.Digest, error) { return "", errors.ErrUnsupported }

// Copy does the instruction in the root of a stage.
func (p *Plan) Copy(ctx context.Context, root *rootfs.Tree) (Result, error) {
	return Result{}, errors.ErrUnsupported
}

// Close removes what was downloaded.
func (p *Plan) Close() error { return nil }

// Result is what a copy has done.
type Result struct {
	Files, Folders, Links int
	Bytes                 int64
	Changed               bool           // a file is not as it was when the digest was made: the layer is no good for the cache
	Lost                  map[string]int // what the caller may not make: see rootfs.Unpacked
}
