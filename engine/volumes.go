package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// The store of volumes notes which containers have a volume. A container that was taken away with its folder, by whomever, has
// said nothing to it; so what the store notes is compared with the containers that there are.

// Volume finds a volume by its name.
func (e *Engine) Volume(name string) (*volumes.Volume, error) {
	store, err := e.Volumes()
	if err != nil {
		return nil, err
	}
	v, err := store.Get(name)
	if errors.Is(err, volumes.ErrNoVolume) || errors.Is(err, volumes.ErrName) {
		return nil, fmt.Errorf("get %s: %w", quotedName(name), volumes.ErrNoVolume)
	}
	if err != nil {
		return nil, err
	}
	v.Users = e.living(v.Users)
	return v, nil
}

// quotedName is a name in a message: on one line, whatever was typed.
func quotedName(name string) string {
	if volumes.CheckName(name) == nil {
		return name
	}
	return fmt.Sprintf("%q", name)
}

// living are those of the containers that there are.
func (e *Engine) living(ids []string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !e.exists(id) })
}

// ListVolumes returns all volumes, by name.
func (e *Engine) ListVolumes() ([]*volumes.Volume, error) {
	store, err := e.Volumes()
	if err != nil {
		return nil, err
	}
	list, err := store.List()
	for _, v := range list {
		v.Users = e.living(v.Users)
	}
	return list, err
}

// CreateVolume makes a volume, or finds the one that has this name already.
func (e *Engine) CreateVolume(name string, labels map[string]string) (*volumes.Volume, error) {
	store, err := e.Volumes()
	if err != nil {
		return nil, err
	}
	if name != "" {
		if err := volumes.CheckName(name); err != nil {
			return nil, fmt.Errorf("create %s: %w", quotedName(name), volumes.ErrName)
		}
	}
	return store.Create(name, labels)
}

// RemoveVolume takes a volume away with all that is in it, if no container has it.
func (e *Engine) RemoveVolume(name string) error {
	v, err := e.Volume(name)
	if err != nil {
		return err
	}
	return e.removeVolume(v)
}

func (e *Engine) removeVolume(v *volumes.Volume) error {
	if len(v.Users) > 0 {
		return fmt.Errorf("remove %s: %w - [%s]", v.Name, volumes.ErrInUse, strings.Join(v.Users, ", "))
	}
	store, err := e.Volumes()
	if err != nil {
		return err
	}
	if err := e.forgetGhosts(store, v.Name); err != nil {
		return err
	}
	return store.Remove(v.Name)
}

// forgetGhosts takes containers that are no more from a volume's users. A container has its folder before it has volumes, so one
// without a folder is not about to get any.
func (e *Engine) forgetGhosts(store *volumes.Store, name string) error {
	v, err := store.Get(name)
	if err != nil {
		return err
	}
	for _, id := range v.Users {
		if e.exists(id) {
			continue
		}
		if err := store.Release(name, id); err != nil {
			return err
		}
	}
	return nil
}

// PruneVolumes removes the volumes that no container has and that match, and tells how much was in them. It goes on after an
// error.
func (e *Engine) PruneVolumes(ctx context.Context, match func(*volumes.Volume) bool) (names []string, bytes int64, err error) {
	list, err := e.ListVolumes()
	errs := []error{err}
	for _, v := range list {
		if len(v.Users) > 0 || !match(v) {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		size, err := VolumeSize(v)
		if err == nil {
			err = e.removeVolume(v)
		}
		switch {
		case errors.Is(err, volumes.ErrInUse), errors.Is(err, volumes.ErrNoVolume): // somebody was faster
		case err != nil:
			errs = append(errs, err)
		default:
			names, bytes = append(names, v.Name), bytes+size
		}
	}
	return names, bytes, errors.Join(errs...)
}

// VolumeSize is how much is in a volume, in bytes.
func VolumeSize(v *volumes.Volume) (int64, error) { return treeSize(v.Mountpoint()) }
