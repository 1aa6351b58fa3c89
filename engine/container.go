package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/jsonfile"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	volumes "github.com/nslab/nslab/labs/07-volumes"
	container "github.com/nslab/nslab/labs/12-container"
)

// Record is what container.json says: what was asked for, as far as it was decided when the container was made.
type Record struct {
	ID         string `json:"Id"`
	Name       string
	OtherName  string `json:",omitempty"` // the one before the last rename, or the one that it was to get: see [Engine.Rename]
	Created    time.Time
	Path       string   // the program
	Args       []string // its arguments
	Image      string   // the image's id
	Driver     unionfs.Driver
	Platform   string
	Config     Config
	HostConfig HostConfig
	Mounts     []MountPoint
	Networks   []EndpointOptions `json:",omitempty"` // none where it shares a network, or has none
}

// MountPoint is a volume, bind or tmpfs of a container, as `inspect` shows it.
type MountPoint struct {
	Type        string
	Name        string `json:",omitempty"` // of a volume
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
	Anonymous   bool `json:"-"`
}

// Container is one container, as it was when it was looked at.
type Container struct {
	Record
	State State

	seen *container.State // the runtime's own record, when it was looked at; nil where it did not run

	engine      *Engine
	lock        *os.File  // held by commands that change it
	monitor     *launched // while it is being started
	specWritten func()    // waits until the spec is on disk, or sees to it that it will not be any more; may be nil
	ending      *ending   // of an --rm container: see [Attachment]

	image *image.Image // while it is being made
	lower []string     // the folders of the image's layers, as soon as they are known

	outlined *specs.Spec // while it is being started: what the monitor was told first
	donor    *Container  // while it is being made: whose network it is going to share

	inherited []volumes.Mount // while it is being made: what --volumes-from has found

	connection *connection // while it is being started: its networks
	named      bool        // its /etc knows its addresses
}

// Dir is the container's folder on disk, RunDir the one that is gone after a reboot.
func (c *Container) Dir() string    { return filepath.Join(c.engine.containersDir(), c.ID) }
func (c *Container) RunDir() string { return filepath.Join(c.engine.runDir(), c.ID) }

// LogPath is where its output is kept.
func (c *Container) LogPath() string { return filepath.Join(c.Dir(), "log.json") }

func (c *Container) path(name string) string { return filepath.Join(c.Dir(), name) }

// Folders of a container below its own.
const (
	initLayer  = "init"   // what a runtime writes into /etc
	upperLayer = "upper"  // what the container has changed
	workFolder = "work"   // overlay's own
	rootFolder = "merged" // where the container has its root, in its own mount namespace; empty for everybody else
)

const recordFile = "container.json"

// newID draws the number of a container: 64 hexadecimal digits, as Docker's.
func newID() (string, error) {
	b := make([]byte, 32)
	for {
		if _, err := rand.Read(b); err != nil {
			return "", fmt.Errorf("number a container: %w", err)
		}
		id := hex.EncodeToString(b)
		// Not one whose first 12 digits are all decimal: it is used as a host name, and some programs take that for an address.
		for _, r := range id[:12] {
			if r >= 'a' {
				return id, nil
			}
		}
	}
}

// save writes the record aside, syncs and renames it. What does not outlive a reboot anyway (--rm) need not reach the disk.
func (c *Container) save() error {
	return jsonfile.Replace(c.path(recordFile), &c.Record, !c.HostConfig.AutoRemove)
}

func readJSON(name string, v any) error {
	data, err := jsonfile.Read(name)
	if err != nil {
		return err
	}
	if err := jsonfile.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// lockFile opens a lock and waits for it. The kernel gives it back when its holder is gone, however it went. It is opened for
// reading, which is enough: a file system that has become read-only keeps nobody from stopping what runs.
func lockFile(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the lock %s: %w", name, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// locked tells whether somebody holds a lock.
func locked(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
