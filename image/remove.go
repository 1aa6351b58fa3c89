package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// User is a container that has an image.
type User struct {
	ID      string
	Running bool
}

// Users tells which containers have an image. noted are those that the store has a note of, some of which may be gone by
// now: their notes are dropped.
type Users func(imageID string, noted []string) []User

// RemoveOptions are for [Store.Remove].
type RemoveOptions struct {
	Force   bool
	NoPrune bool  // keep the images that it was made from, also where they have no name
	Users   Users // nil: all that are noted, and none is running
}

// Removed is one thing that was done, in the order of doing.
type Removed struct {
	Untagged string `json:",omitempty"` // a name that no longer leads anywhere
	Deleted  string `json:",omitempty"` // the id of an image, or the chain id of a layer
}

// Remove takes a name from an image or, if it was the only one or an id is given, removes the image with all layers that
// nothing else needs.
func (s *Store) Remove(ref string, o RemoveOptions) (done []Removed, err error) {
	err = s.remove(o.Users, func(r *remover) error {
		r.force, r.prune = o.Force, !o.NoPrune
		return r.ref(ref)
	}, &done, nil)
	return done, err
}

// remove runs f on the store's index, under its lock, and then removes what is needed no more.
func (s *Store) remove(users Users, f func(*remover) error, done *[]Removed, freed *int64) error {
	s.sweep()
	if _, err := os.Lstat(s.images()); errors.Is(err, fs.ErrNotExist) {
		return f(&remover{s: s, idx: &ocispec.Index{}, users: users, done: done}) // nothing to lock, nothing to find
	}
	err := s.locked(unix.LOCK_EX, func() error {
		idx, err := s.loadIndex()
		if err != nil {
			return err
		}
		r := &remover{s: s, idx: idx, users: users, done: done}
		opErr := f(r)
		if len(*done) == 0 && opErr != nil {
			return opErr
		}
		g, err := s.garbage(r.idx)
		if err != nil {
			return errors.Join(opErr, err)
		}
		if err = s.writeIndex(r.idx); errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			// On a full disk there is no room even for a shorter index, so layers go first. Should nslab be killed now, the
			// image is still there, and its layers are unpacked again.
			if err = g.dropLayers(s); err == nil {
				s.sweep()
				err = s.writeIndex(r.idx)
			}
		}
		if err == nil {
			err = errors.Join(g.dropLayers(s), g.dropBlobs(s))
		}
		for _, l := range g.gone {
			*done = append(*done, Removed{Deleted: string(l)})
		}
		if freed != nil {
			*freed += g.freed
		}
		return errors.Join(opErr, err)
	})
	s.sweep() // the layers that were put aside, without the lock
	return err
}

// remover changes an index in memory.
type remover struct {
	s            *Store
	idx          *ocispec.Index
	users        Users
	force, prune bool
	done         *[]Removed
}

// ref removes what a reference stands for, by the rules of Docker.
func (r *remover) ref(ref string) error {
	d, err := r.s.find(r.idx, ref)
	if err != nil {
		return err
	}
	i, err := r.s.load(r.idx, d)
	if err != nil {
		if r.force && (errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist)) {
			r.untag(ref, func(e ocispec.Descriptor) bool { return e.Digest == d.Digest })
			return nil
		}
		return err
	}
	names := append(slices.Clone(i.Names), i.Digests...)
	used := r.usedBy(i.ID)
	if name, ok := r.byName(ref, d); ok {
		if !r.force && oneRepository(names) && len(used) > 0 {
			return &ConflictError{ID: i.ID, text: fmt.Sprintf(
				"unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
				ref, ShortID(used[0].ID), ShortID(i.ID))}
		}
		r.untagName(name, i)
		if slices.ContainsFunc(names, r.has) {
			return nil
		}
		if r.conflict(i.ID, used) != nil { // it has lost its name; that is what was asked for, too
			r.keep(i)
			return nil
		}
		r.image(i)
		return nil
	}
	if !r.force && !oneRepository(names) {
		return &ConflictError{ID: i.ID, Why: "image is referenced in multiple repositories"}
	}
	if err := r.conflict(i.ID, used); err != nil {
		return err
	}
	r.image(i)
	return nil
}

// byName says whether a reference is a name of the entry that it has led to, and not its id.
func (r *remover) byName(ref string, d ocispec.Descriptor) (string, bool) {
	n, why := parseName(ref)
	if why != "" {
		return "", false
	}
	if named, ok := findName(r.idx, n); ok && named.Digest == d.Digest && entryName(named) != "" {
		return entryName(named), true
	}
	return "", false
}

// oneRepository says whether names are at most one tag, and digests of the same repository.
func oneRepository(names []string) bool {
	tags := 0
	for _, n := range names {
		if repositoryOf(n) != repositoryOf(names[0]) {
			return false
		}
		if !byDigest(n) {
			tags++
		}
	}
	return tags <= 1
}

func (r *remover) has(name string) bool {
	return slices.ContainsFunc(r.idx.Manifests, func(e ocispec.Descriptor) bool { return entryName(e) == name })
}

// untagName takes one name away, and with the last tag of a repository the digests by which it was pulled from there.
func (r *remover) untagName(name string, i *Image) {
	r.untag(name, func(e ocispec.Descriptor) bool { return entryName(e) == name })
	if byDigest(name) {
		return
	}
	same := func(other string) bool { return repositoryOf(other) == repositoryOf(name) && r.has(other) }
	if slices.ContainsFunc(i.Names, same) {
		return
	}
	for _, d := range i.Digests {
		if same(d) {
			r.untag(d, func(e ocispec.Descriptor) bool { return entryName(e) == d })
		}
	}
}

func (r *remover) untag(name string, which func(ocispec.Descriptor) bool) {
	r.idx.Manifests = slices.DeleteFunc(r.idx.Manifests, which)
	*r.done = append(*r.done, Removed{Untagged: name})
}

// usedBy asks who has an image, and forgets the notes of those who are gone.
func (r *remover) usedBy(id string) []User {
	noted, err := r.s.noted(id)
	if r.users == nil || err != nil {
		var list []User
		for _, c := range noted {
			list = append(list, User{ID: c})
		}
		return list
	}
	list := r.users(id, noted)
	for _, c := range noted {
		if !slices.ContainsFunc(list, func(u User) bool { return u.ID == c }) {
			r.s.Release(id, c)
		}
	}
	return list
}

// conflict says why an image must stay, if it must.
func (r *remover) conflict(id string, used []User) error {
	if r.isParent(id) {
		return &ConflictError{ID: id, Hard: true, Why: "image has dependent child images"}
	}
	if n := slices.IndexFunc(used, func(u User) bool { return u.Running }); n >= 0 {
		return &ConflictError{ID: id, Hard: true, Why: "image is being used by running container " + ShortID(used[n].ID)}
	}
	if !r.force && len(used) > 0 {
		return &ConflictError{ID: id, Why: "image is being used by stopped container " + ShortID(used[0].ID)}
	}
	return nil
}

func (r *remover) isParent(id string) bool {
	return slices.ContainsFunc(r.idx.Manifests, func(e ocispec.Descriptor) bool {
		return e.Annotations[annotationParent] == id && r.s.id(e) != id
	})
}

// image removes an image with all its names, and then those that it was made from, as far as nobody has a name for them.
func (r *remover) image(i *Image) {
	for _, e := range slices.Clone(r.idx.Manifests) {
		if r.s.id(e) == i.ID && entryName(e) != "" {
			r.untag(entryName(e), func(d ocispec.Descriptor) bool { return entryName(d) == entryName(e) })
		}
	}
	r.idx.Manifests = slices.DeleteFunc(r.idx.Manifests, func(e ocispec.Descriptor) bool { return r.s.id(e) == i.ID })
	*r.done = append(*r.done, Removed{Deleted: i.ID})
	if !r.prune || i.Parent == "" {
		return
	}
	parent, err := r.s.resolve(r.idx, i.Parent)
	if err != nil || len(parent.Names)+len(parent.Digests) > 0 {
		return
	}
	if len(r.usedBy(parent.ID)) == 0 && !r.isParent(parent.ID) {
		r.image(parent)
	}
}

// keep gives an image that has lost its last name the entry of one without a name.
func (r *remover) keep(i *Image) {
	if hasEntry(r.idx, digest.Digest(i.Digest)) {
		return
	}
	addNames(r.idx, i.Descriptor(), i.ID, i.Parent, nil, time.Now())
}

// PruneOptions are for [Store.Prune].
type PruneOptions struct {
	All   bool              // also those that have a name, if no container has them
	Match func(*Image) bool // nil: all
	Users Users
}

// Prune removes images that nothing needs, and says how much of the disk that freed.
func (s *Store) Prune(o PruneOptions) (done []Removed, freed int64, err error) {
	err = s.remove(o.Users, func(r *remover) error {
		r.prune = true
		for more := true; more; { // an image that goes may leave one that it was made from without a child
			more = false
			for _, e := range slices.Clone(r.idx.Manifests) {
				i, err := s.load(r.idx, e)
				if err != nil || !r.listed(i.ID) {
					continue // unreadable, which is nobody's wish to lose; or removed with another
				}
				named := len(i.Names)+len(i.Digests) > 0
				if named && !o.All || o.Match != nil && !o.Match(i) || r.isParent(i.ID) || len(r.usedBy(i.ID)) > 0 {
					continue
				}
				r.image(i)
				more = true
			}
		}
		return nil
	}, &done, &freed)
	freed += s.dropPartials(time.Now())
	return done, freed, err
}

func (r *remover) listed(id string) bool {
	return slices.ContainsFunc(r.idx.Manifests, func(e ocispec.Descriptor) bool { return r.s.id(e) == id })
}

// garbage is what no image of an index and no container needs.
type garbage struct {
	layers []digest.Digest // chain ids
	blobs  []string

	gone  []digest.Digest // the layers that are removed
	freed int64
}

// garbage looks for blobs and layers that are needed no more. The caller has the lock.
func (s *Store) garbage(idx *ocispec.Index) (g garbage, err error) {
	notes, err := s.notes()
	if err != nil {
		return g, storeError("read which images containers need", err)
	}
	blobs, chains := map[string]bool{}, map[string]bool{}
	for _, d := range append(notes, idx.Manifests...) {
		if err := s.mark(d, blobs, chains); err != nil {
			return g, err // rather keep too much than too little
		}
	}
	if err := errors.Join(s.markCache(blobs, chains), s.markDrafts(blobs, chains)); err != nil {
		return g, err
	}
	entries, err := os.ReadDir(s.layers())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return g, storeError("list layers", err)
	}
	for _, e := range entries {
		if isHex(e.Name(), 64) && !chains[e.Name()] {
			g.layers = append(g.layers, digest.Digest("sha256:"+e.Name()))
		}
	}
	entries, err = os.ReadDir(s.images("blobs", "sha256"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return g, storeError("list blobs", err)
	}
	for _, e := range entries {
		if !blobs[e.Name()] {
			g.blobs = append(g.blobs, e.Name())
		}
	}
	return g, nil
}

// dropLayers puts layers aside. They are deleted later, without the lock: a hundred thousand files take a while.
func (g *garbage) dropLayers(s *Store) error {
	for _, chain := range g.layers {
		info, infoErr := s.layerInfo(chain)
		err := os.Rename(s.layerPath(chain), s.layers(removing+chain.Encoded()))
		if errors.Is(err, unix.ENOTEMPTY) { // the same layer, from an earlier time, is still being deleted
			err = removeTree(s.layerPath(chain))
		}
		if err != nil {
			return storeError("remove layer", err)
		}
		os.Remove(s.unsettledPath(chain))
		if infoErr == nil {
			g.freed += info.Size
		}
		g.gone = append(g.gone, chain)
	}
	g.layers = nil
	return nil
}

func (g *garbage) dropBlobs(s *Store) error {
	for _, name := range g.blobs {
		path := s.images("blobs", "sha256", name)
		st, statErr := os.Lstat(path)
		if err := os.Remove(path); err != nil {
			return storeError("remove blob", err)
		}
		if statErr == nil {
			g.freed += st.Size()
		}
	}
	g.blobs = nil
	return nil
}

// mark notes what an image needs. What a broken image needs cannot be known, and is of no use.
func (s *Store) mark(d ocispec.Descriptor, blobs, chains map[string]bool) error {
	if !isDigest(d.Digest) || blobs[d.Digest.Encoded()] {
		return nil
	}
	blobs[d.Digest.Encoded()] = true
	data, err := s.blob(d.Digest, maxManifest)
	i := &Image{}
	var list ocispec.Index // of an image for several platforms, which other tools have put here
	if err == nil {
		err = errors.Join(json.Unmarshal(data, &i.manifest), json.Unmarshal(data, &list))
	}
	for _, sub := range list.Manifests {
		err = errors.Join(err, s.mark(sub, blobs, chains))
	}
	if err == nil && isDigest(i.manifest.Config.Digest) {
		blobs[i.manifest.Config.Digest.Encoded()] = true
		for _, l := range i.manifest.Layers {
			blobs[strings.TrimPrefix(string(l.Digest), "sha256:")] = true
		}
		if data, err = s.blob(i.manifest.Config.Digest, maxConfig); err == nil {
			err = i.parseConfig(data)
		}
		for _, c := range i.Chain() {
			chains[strings.TrimPrefix(string(c), "sha256:")] = true
		}
	}
	// What the disk does not give out now it may give out later; anything else is not readable by anybody.
	var refused *fs.PathError
	if errors.As(err, &refused) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EFBIG) {
		return err
	}
	return nil
}
