package engine

import (
	"fmt"
	"os"
	"path/filepath"

	volumes "github.com/nslab/nslab/labs/07-volumes"

	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/image"
)

// Engine is the containers, images and volumes below one root.
type Engine struct {
	Root    string // durable: images, layers, containers, volumes
	RunRoot string // gone after a reboot: processes, sockets, locks

	images   *image.Store
	networks *network.Store
}

// The places where nslab keeps things, unless told otherwise. An ordinary user has his own.
const (
	defaultRoot = "/var/lib/nslab"
)

// DefaultRoot is --root where neither the flag nor NSLAB_ROOT says anything.
func DefaultRoot() string {
	if root := os.Getenv("NSLAB_ROOT"); root != "" {
		return root
	}
	if os.Geteuid() == 0 {
		return defaultRoot
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "nslab")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local/share/nslab")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("nslab-%d", os.Geteuid()))
}

// Open opens what is below the roots. Nothing is read or made before it is needed.
func Open(root, runRoot string) (*Engine, error) {
	e := &Engine{}
	var err error
	if e.Root, err = filepath.Abs(root); err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	if e.RunRoot, err = filepath.Abs(runRoot); err != nil {
		return nil, fmt.Errorf("open %s: %w", runRoot, err)
	}
	if e.images, err = image.Open(e.Root); err != nil {
		return nil, err
	}
	e.networks = network.Open(e.Root, e.RunRoot, e.alive)
	return e, nil
}

// Images is the store of images.
func (e *Engine) Images() *image.Store { return e.images }

// Volumes opens the store of volumes.
func (e *Engine) Volumes() (*volumes.Store, error) {
	return volumes.OpenStore(filepath.Join(e.Root, "volumes"))
}

func (e *Engine) containersDir() string { return filepath.Join(e.Root, "containers") }
func (e *Engine) namesDir() string      { return filepath.Join(e.Root, "names") }
func (e *Engine) runDir() string        { return filepath.Join(e.RunRoot, "containers") }
