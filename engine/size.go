package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Size is how much room a container's files take, in bytes.
type Size struct {
	Own int64 // what it has written itself
	All int64 // with the layers of its image
}

// Sizer measures containers. Images that several of them have in common are measured once.
type Sizer struct {
	engine *Engine
	images map[string]int64
}

// Sizer returns a new one. It is not for use by several goroutines.
func (e *Engine) Sizer() *Sizer { return &Sizer{engine: e, images: map[string]int64{}} }

// Size measures a container.
func (s *Sizer) Size(c *Container) (Size, error) {
	own, err := treeSize(c.path(upperLayer))
	if err != nil {
		return Size{}, err
	}
	below, known := s.images[c.Image]
	if !known {
		img, err := s.engine.images.Held(c.Image, c.ID)
		if err == nil {
			err = s.engine.images.Measure(img)
		}
		if err != nil {
			return Size{Own: own}, err
		}
		below = img.Size
		s.images[c.Image] = below
	}
	return Size{Own: own, All: own + below}, nil
}

// treeSize adds up what the files of a tree hold. As in Docker, folders count nothing, and a file with several names counts
// once. Files may go while we look.
func treeSize(dir string) (size int64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return goneIsNil(err)
		}
		info, err := d.Info()
		if err != nil {
			return goneIsNil(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Nlink > 1 {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		size += info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return size, nil
}

func goneIsNil(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
