package volumes

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Store keeps volumes: <store>/<name>/_data is what containers see, <store>/<name>/volume.json what is known about it.
//
// A volume comes into being with one rename(2) and goes with another, so there is never half of one under its name. What
// was being made or taken away when nslab was killed lies under a name that begins with a dot, and the next change of the
// store removes it. A lock on the store orders changes; reading needs none.
type Store struct{ dir string }

const (
	dataFolder = "_data"
	infoFile   = "volume.json"
	lockFile   = ".lock"
	making     = ".making-"
	removing   = ".removing-"
)

// Volume is a folder that outlives containers.
type Volume struct {
	Name      string            `json:"Name"`
	Labels    map[string]string `json:"Labels"`
	CreatedAt time.Time         `json:"CreatedAt"`
	Anonymous bool              `json:"Anonymous"` // nobody gave it a name; it goes with its container
	Users     []string          `json:"Users"`     // the ids of the containers that have it
	dir       string
}

// Mountpoint is the folder on the host.
func (v *Volume) Mountpoint() string { return filepath.Join(v.dir, dataFolder) }

// OpenStore opens a store, and makes its folder if need be: <root>/volumes.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil { // containers' users pass through, nobody lists it
		return nil, &Error{Op: "make the volume store", Path: dir, Err: unwrapPath(err)}
	}
	return &Store{dir}, nil
}

// locked runs f while nobody else changes the store, and first removes what a killed change has left.
func (s *Store) locked(f func() error) (err error) {
	lock, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return &Error{Op: "lock the volume store", Path: s.dir, Err: unwrapPath(err)}
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return &Error{Op: "lock the volume store", Path: s.dir, Err: err}
	}
	for _, prefix := range []string{making, removing} {
		left, _ := filepath.Glob(filepath.Join(s.dir, prefix+"*"))
		for _, dir := range left {
			if err := os.RemoveAll(dir); err != nil {
				return &Error{Op: "remove the rest of", Path: dir, Err: unwrapPath(err)}
			}
		}
	}
	return f()
}

// Create returns the volume of this name, made if there is none; without a name it makes one with a number for a name. A new
// one is born with its users: whoever is killed right after this leaves no volume that nobody remembers. Of one that was
// there they become users, too.
func (s *Store) Create(name string, labels map[string]string, users ...string) (v *Volume, err error) {
	anonymous := name == ""
	if anonymous {
		var random [32]byte
		rand.Read(random[:])
		name = hex.EncodeToString(random[:])
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	err = s.locked(func() error {
		if v, err = s.Get(name); err == nil {
			if len(labels) > 0 && !maps.Equal(labels, v.Labels) {
				return &Error{Op: "make volume", Path: name, Err: ErrExists}
			}
			return v.addUsers(users)
		}
		if !errors.Is(err, ErrNoVolume) {
			return err
		}
		if labels == nil {
			labels = map[string]string{}
		}
		v = &Volume{Name: name, Labels: labels, CreatedAt: time.Now().UTC(), Anonymous: anonymous, Users: append([]string{}, users...)}
		return s.make(v)
	})
	return v, err
}

func (v *Volume) addUsers(users []string) error {
	before := len(v.Users)
	for _, u := range users {
		if !slices.Contains(v.Users, u) {
			v.Users = append(v.Users, u)
		}
	}
	if len(v.Users) == before {
		return nil
	}
	return v.save()
}

func (s *Store) make(v *Volume) error {
	v.dir = filepath.Join(s.dir, making+v.Name)
	if err := os.MkdirAll(v.Mountpoint(), 0o755); err != nil {
		return &Error{Op: "make volume", Path: v.Name, Err: unwrapPath(err)}
	}
	if err := os.Chmod(v.dir, 0o711); err != nil {
		return &Error{Op: "make volume", Path: v.Name, Err: unwrapPath(err)}
	}
	if err := v.save(); err != nil {
		return err
	}
	final := filepath.Join(s.dir, v.Name)
	if err := errors.Join(os.Rename(v.dir, final), syncFolder(s.dir)); err != nil {
		return &Error{Op: "make volume", Path: v.Name, Err: unwrapPath(err)}
	}
	v.dir = final
	return nil
}

// save writes what is known: to a file beside, synced, and then renamed, so that there is always a whole one.
func (v *Volume) save() error {
	fail := func(err error) error { return &Error{Op: "write down volume", Path: v.Name, Err: unwrapPath(err)} }
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(v.dir, "."+infoFile)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fail(errors.Join(err, os.Remove(f.Name())))
	}
	if err := os.Rename(f.Name(), filepath.Join(v.dir, infoFile)); err != nil {
		return fail(err)
	}
	return syncFolder(v.dir)
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get returns the volume of this name.
func (s *Store) Get(name string) (*Volume, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, name)
	text, err := os.ReadFile(filepath.Join(dir, infoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Op: "find volume", Path: name, Err: ErrNoVolume}
	}
	if err != nil {
		return nil, &Error{Op: "read volume", Path: name, Err: unwrapPath(err)}
	}
	v := &Volume{dir: dir}
	if err := json.Unmarshal(text, v); err != nil {
		return nil, &Error{Op: "read volume", Path: name, Err: err}
	}
	return v, nil
}

// List returns all volumes, by name.
func (s *Store) List() ([]*Volume, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, &Error{Op: "list the volume store", Path: s.dir, Err: unwrapPath(err)}
	}
	var list []*Volume
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		v, err := s.Get(e.Name())
		if errors.Is(err, ErrNoVolume) || errors.Is(err, ErrName) {
			continue // removed meanwhile, or nothing of ours
		}
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// Use notes that a container has a volume, and Release that it has it no more. Both do no harm twice.
func (s *Store) Use(name, container string) error {
	return s.users(name, func(list []string) []string {
		if slices.Contains(list, container) {
			return list
		}
		return append(list, container)
	})
}

// Release undoes [Store.Use].
func (s *Store) Release(name, container string) error {
	return s.users(name, func(list []string) []string {
		return slices.DeleteFunc(list, func(c string) bool { return c == container })
	})
}

func (s *Store) users(name string, change func([]string) []string) error {
	return s.locked(func() error {
		v, err := s.Get(name)
		if err != nil {
			return err
		}
		v.Users = change(v.Users)
		return v.save()
	})
}

// Remove deletes a volume that no container has.
func (s *Store) Remove(name string) error {
	return s.locked(func() error {
		v, err := s.Get(name)
		if err != nil {
			return err
		}
		return s.remove(v)
	})
}

func (s *Store) remove(v *Volume) error {
	if len(v.Users) > 0 {
		return &Error{Op: "remove volume", Path: v.Name, Err: fmt.Errorf("%w by %s", ErrInUse, strings.Join(v.Users, ", "))}
	}
	gone := filepath.Join(s.dir, removing+v.Name)
	if err := os.Rename(v.dir, gone); err != nil {
		return &Error{Op: "remove volume", Path: v.Name, Err: unwrapPath(err)}
	}
	if err := os.RemoveAll(gone); err != nil {
		return &Error{Op: "remove volume", Path: v.Name, Err: unwrapPath(err)}
	}
	return nil
}

// Prune deletes the volumes that no container has, and returns their names: those without a name of their own, or all.
func (s *Store) Prune(_ context.Context, all bool) (removed []string, err error) {
	err = s.locked(func() error {
		list, err := s.List()
		if err != nil {
			return err
		}
		for _, v := range list {
			if len(v.Users) > 0 || !all && !v.Anonymous {
				continue
			}
			if err := s.remove(v); err != nil {
				return err
			}
			removed = append(removed, v.Name)
		}
		return nil
	})
	return removed, err
}
