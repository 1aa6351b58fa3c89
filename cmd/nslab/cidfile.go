package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// cidFile is the file of --cidfile. It is made before the container, so that a container never comes into being whose id
// could not be written down, and goes again if there is no container in the end.
type cidFile struct {
	path string
	f    *os.File
}

// newCIDFile makes the file, which must not be there; for no path it makes none, and a nil *cidFile does nothing.
func newCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) // O_EXCL follows no link either
	if errors.Is(err, fs.ErrExist) {
		return nil, refuse("remove it, if that container is gone", "container ID file found, make sure the other container isn't running: %s", path)
	}
	if err != nil {
		return nil, refuse("", "--cidfile: %w", err)
	}
	return &cidFile{path, f}, nil
}

// write puts the id into the file.
func (c *cidFile) write(id string) error {
	if c == nil {
		return nil
	}
	_, err := c.f.WriteString(id)
	if err = errors.Join(err, c.f.Close()); err != nil {
		return fmt.Errorf("--cidfile: %w", err)
	}
	c.f = nil
	return nil
}

// close removes the file if no id was written to it.
func (c *cidFile) close() error {
	if c == nil || c.f == nil {
		return nil
	}
	return errors.Join(c.f.Close(), os.Remove(c.path))
}
