package jsonfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Replace writes a file as a whole: whoever reads it finds the old text or the new one, also after a crash of the machine if it
// is to be durable. For that the file has to be on the disk before it gets its name, and then the name.
func Replace(name string, v any, durable bool) error {
	data, err := MarshalIndent(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, Cause(err))
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		os.Remove(name + ".new")
		return fmt.Errorf("write %s: %w", name, Cause(err))
	}
	if durable {
		return syncFolder(filepath.Dir(name))
	}
	return nil
}

// syncFolder makes sure that a name that was just made is on the disk.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, Cause(err))
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, Cause(err))
	}
	return nil
}

// Cause strips the path that a message names already.
func Cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
