package image

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// told renders what was done, ids by the names that a test has for them.
func told(done []Removed, ids map[string]string) string {
	var all []string
	for _, d := range done {
		text := d.Untagged
		if d.Deleted != "" {
			text = "-layer"
			if name, ok := ids[d.Deleted]; ok {
				text = "-" + name
			}
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// TestRemove follows Docker's rules.
func TestRemove(t *testing.T) {
	running := func(id string, running bool) Users {
		return func(image string, _ []string) []User {
			if image == id {
				return []User{{ID: "0123456789abcdef", Running: running}}
			}
			return nil
		}
	}
	type setup struct{ base, top *Image }
	for name, c := range map[string]struct {
		ref   string // BASE and TOP stand for the ids
		users func(setup) Users
		force bool
		want  string // what was done
		err   string
		left  string // the names that are left, and the images
	}{
		"one of two names":     {ref: "base", want: "base:latest", left: "base:v2 top:latest, 2 images"},
		"by id":                {ref: "TOP", want: "top:latest -top -layer", left: "base:latest base:v2, 1 images"},
		"by id, repositories":  {ref: "BASE", err: "conflict: unable to delete BASE (must be forced) - image is referenced in multiple repositories", left: "base:latest base:v2 top:latest, 2 images"},
		"a parent":             {ref: "BASE", force: true, err: "conflict: unable to delete BASE (cannot be forced) - image has dependent child images", left: "base:latest base:v2 top:latest, 2 images"},
		"child":                {ref: "top", want: "top:latest -top -layer", left: "base:latest base:v2, 1 images"},
		"used by name":         {ref: "top", users: func(s setup) Users { return running(s.top.ID, false) }, err: `conflict: unable to remove repository reference "top" (must force) - container 0123456789ab is using its referenced image TOP`, left: "base:latest base:v2 top:latest, 2 images"},
		"used by id":           {ref: "TOP", users: func(s setup) Users { return running(s.top.ID, false) }, err: "conflict: unable to delete TOP (must be forced) - image is being used by stopped container 0123456789ab", left: "base:latest base:v2 top:latest, 2 images"},
		"used, forced":         {ref: "TOP", force: true, users: func(s setup) Users { return running(s.top.ID, false) }, want: "top:latest -top -layer", left: "base:latest base:v2, 1 images"},
		"running, forced":      {ref: "TOP", force: true, users: func(s setup) Users { return running(s.top.ID, true) }, err: "conflict: unable to delete TOP (cannot be forced) - image is being used by running container 0123456789ab", left: "base:latest base:v2 top:latest, 2 images"},
		"running, only a name": {ref: "top", force: true, users: func(s setup) Users { return running(s.top.ID, true) }, want: "top:latest", left: "base:latest base:v2, 2 images"},
		"unknown":              {ref: "nosuch", err: "no such image: nosuch", left: "base:latest base:v2 top:latest, 2 images"},
		"bad name":             {ref: "Bad Name", err: `"Bad Name": invalid reference format: repository name must be lowercase`, left: "base:latest base:v2 top:latest, 2 images"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var x setup
			x.base = commit(t, s, nil, tarOf(t, file{"a", "1"}), "base", "base:v2")
			x.top = commit(t, s, x.base, tarOf(t, file{"b", "2"}), "top")
			real := strings.NewReplacer("BASE", ShortID(x.base.ID), "TOP", ShortID(x.top.ID))
			o := RemoveOptions{Force: c.force}
			if c.users != nil {
				o.Users = c.users(x)
			}
			done, err := s.Remove(real.Replace(c.ref), o)
			if got := told(done, map[string]string{x.base.ID: "base", x.top.ID: "top"}); got != c.want {
				t.Errorf("done: %q; want %q", got, c.want)
			}
			if (err != nil || c.err != "") && fmt.Sprint(err) != real.Replace(c.err) {
				t.Errorf("error: %v; want %s", err, real.Replace(c.err))
			}
			list, err := s.List()
			must(t, err)
			var names []string
			for _, i := range list {
				names = append(names, i.Names...)
				if _, err := s.Layers(t.Context(), i, unionfs.Overlay); err != nil {
					t.Errorf("layers of %v: %v", i.Names, err)
				}
			}
			slices.Sort(names)
			if got := fmt.Sprintf("%s, %d images", strings.Join(names, " "), len(list)); got != c.left {
				t.Errorf("left: %s; want %s", got, c.left)
			}
		})
	}
}

// TestRemoveAll: when the last image is gone, so is everything of it.
func TestRemoveAll(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, nil, tarOf(t, file{"a", "1"})) // without a name
	top := commit(t, s, base, tarOf(t, file{"b", "2"}), "top")
	other := commit(t, s, nil, gzipped(t, tarOf(t, file{"a", "1"})), "other") // the same content, packed otherwise
	ids := map[string]string{base.ID: "base", top.ID: "top", other.ID: "other"}
	done, err := s.Remove("top", RemoveOptions{})
	must(t, err)
	if got := told(done, ids); got != "top:latest -top -base -layer" {
		t.Errorf("done: %q; want the parent without a name gone, too, and one layer, since the other is shared", got)
	}
	done, err = s.Remove("other", RemoveOptions{})
	must(t, err)
	if got := told(done, ids); got != "other:latest -other -layer" {
		t.Errorf("done: %q", got)
	}
	if got := content(t, s); !slices.Equal(got, []string{"images/index.json", "images/oci-layout"}) {
		t.Errorf("left: %q; want nothing", got)
	}
}

// TestUse: what a container has stays, whatever is done to the image.
func TestUse(t *testing.T) {
	s := newStore(t)
	i := importTar(t, s, tarOf(t, file{"a", "1"}), "x")
	for range 2 {
		must(t, s.Use(i.ID, "c1"))
		must(t, s.Use(i.ID, "c2"))
	}
	if held, err := s.Held(i.ID, "c3"); err != nil || held.ID != i.ID {
		t.Errorf("held by a container whose note is lost: %v", err)
	}
	for _, bad := range []string{"", "..", "a/b", ".x", "a b"} {
		if s.Use(i.ID, bad) == nil || s.Release(i.ID, bad) == nil {
			t.Errorf("container %q is accepted", bad)
		}
	}
	if err := s.Use("sha256:"+strings.Repeat("0", 64), "c1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("use of an unknown image: %v", err)
	}
	if _, err := s.Remove("x", RemoveOptions{}); !errors.Is(err, ErrConflict) {
		t.Errorf("remove = %v; want a conflict", err)
	}
	if done, _, err := s.Prune(PruneOptions{All: true}); len(done) > 0 || err != nil {
		t.Errorf("prune: %v, %v; want nothing", done, err)
	}
	done, err := s.Remove("x", RemoveOptions{Force: true})
	if len(done) != 2 || err != nil {
		t.Errorf("by force: %v, %v; want the image gone and its layer not", done, err)
	}
	if list, err := s.List(); len(list) > 0 || err != nil {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := s.Resolve("x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("resolve = %v; want it gone", err)
	}
	for _, find := range []func() (*Image, error){
		func() (*Image, error) { return s.Held(i.ID, "c2") }, func() (*Image, error) { return s.Resolve(i.ID) },
	} {
		held, err := find()
		must(t, err)
		dirs, err := s.Layers(t.Context(), held, unionfs.Overlay)
		must(t, err)
		if text, err := os.ReadFile(dirs[0] + "/a"); string(text) != "1" {
			t.Errorf("the container's layer: %q, %v", text, err)
		}
	}
	must(t, s.Use(i.ID, "c2")) // a container that is there already
	must(t, s.Release(i.ID, "c1"))
	must(t, s.ReleaseAll("c2"))
	must(t, s.Release(i.ID, "c2"))
	if _, err := s.Held(i.ID, "c2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("held after release: %v", err)
	}
	done, freed, err := s.Prune(PruneOptions{})
	if len(done) != 1 || freed == 0 || err != nil {
		t.Errorf("prune: %v, %d, %v; want the layer gone", done, freed, err)
	}
	if got := content(t, s); !slices.Equal(got, []string{"images/index.json", "images/oci-layout"}) {
		t.Errorf("left: %q; want nothing", got)
	}
}

// TestStaleUse: the engine's word counts, and not an old note.
func TestStaleUse(t *testing.T) {
	s := newStore(t)
	i := importTar(t, s, tarOf(t, file{"a", "1"}), "x")
	must(t, s.Use(i.ID, "gone"))
	var asked []string
	_, err := s.Remove("x", RemoveOptions{Users: func(id string, noted []string) []User {
		asked = append(asked, noted...)
		return nil
	}})
	if err != nil || !slices.Contains(asked, "gone") {
		t.Errorf("remove = %v; asked about %q", err, asked)
	}
	if got := content(t, s); !slices.Equal(got, []string{"images/index.json", "images/oci-layout"}) {
		t.Errorf("left: %q; want nothing", got)
	}
}

func TestPrune(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, nil, tarOf(t, file{"a", "1"}))
	middle := commit(t, s, base, tarOf(t, file{"b", "2"}))
	commit(t, s, middle, tarOf(t, file{"c", "3"}), "top")
	loose := commit(t, s, nil, tarOf(t, file{"d", strings.Repeat("x", 1000)}))
	done, freed, err := s.Prune(PruneOptions{Match: func(i *Image) bool { return i.ID != loose.ID }})
	if len(done) > 0 || freed != 0 || err != nil {
		t.Errorf("prune of none: %v, %d, %v", done, freed, err)
	}
	done, freed, err = s.Prune(PruneOptions{})
	if got := told(done, map[string]string{loose.ID: "loose"}); got != "-loose -layer" || freed < 2000 || err != nil {
		t.Errorf("prune: %q, %d, %v; want the loose image", got, freed, err)
	}
	done, _, err = s.Prune(PruneOptions{All: true})
	if got := told(done, nil); got != "top:latest -layer -layer -layer -layer -layer -layer" || err != nil {
		t.Errorf("prune of all: %q, %v; want three images and their layers", got, err)
	}
	if got := content(t, s); !slices.Equal(got, []string{"images/index.json", "images/oci-layout"}) {
		t.Errorf("left: %q; want nothing", got)
	}
	if done, _, err := newStore(t).Prune(PruneOptions{All: true}); len(done) > 0 || err != nil {
		t.Errorf("prune of a store that is not there: %v, %v", done, err)
	}
}

// TestTag: a name moves, and leaves the image that had it without.
func TestTag(t *testing.T) {
	s := newStore(t)
	first, second := importTar(t, s, tarOf(t, file{"a", "1"}), "x"), importTar(t, s, tarOf(t, file{"a", "2"}), "x", "y")
	list, err := s.List()
	must(t, err)
	names := map[string]string{}
	for _, i := range list {
		names[i.ID] = strings.Join(i.Names, " ")
	}
	if names[second.ID] != "x:latest y:latest" || names[first.ID] != "" || len(names) != 2 {
		t.Errorf("names: %v", names)
	}
	must(t, s.Tag(first, "host:5000/a/b:v1"))
	must(t, s.Tag(first, "docker.io/library/x")) // x:latest
	for ref, want := range map[string]*Image{"x": first, "x:latest": first, "index.docker.io/x": first, "host:5000/a/b:v1": first, "y": second,
		first.ID: first, first.ID[:20]: first, first.ID[7:15]: first, second.Digest: second, "x@" + first.Digest: first} {
		if got, err := s.Resolve(ref); err != nil || got.ID != want.ID {
			t.Errorf("resolve %s: %v; want %s", ref, err, want.Names)
		}
	}
	for _, ref := range []string{"z", "x:v9", "y@" + first.Digest, "host:5000/a/b", "sha256:" + strings.Repeat("0", 64)} {
		if _, err := s.Resolve(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("resolve %s: %v; want ErrNotFound", ref, err)
		}
	}
	for _, ref := range []string{"X", "", "a b", "x@" + first.Digest, first.ID[7:]} {
		if err := s.Tag(first, ref); !errors.Is(err, ErrReference) {
			t.Errorf("tag %q: %v; want ErrReference", ref, err)
		}
	}
	if err := s.Tag(&Image{ID: "sha256:" + strings.Repeat("0", 64)}, "q"); !errors.Is(err, ErrNotFound) {
		t.Errorf("tag of an image that is gone: %v", err)
	}
}

// TestAmbiguous makes images until two ids begin alike.
func TestAmbiguous(t *testing.T) {
	s := newStore(t)
	begins := map[byte]string{}
	for n := range 20 {
		i := importTar(t, s, tarOf(t, file{"a", fmt.Sprint(n)}))
		first := digest.Digest(i.ID).Encoded()[0]
		if _, twice := begins[first]; !twice {
			begins[first] = i.ID
			continue
		}
		_, err := s.Resolve(string(first))
		if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), ShortID(i.ID)) || !strings.Contains(err.Error(), ShortID(begins[first])) {
			t.Errorf("resolve %c: %v; want both ids", first, err)
		}
		return
	}
	t.Error("of 20 ids no two begin with the same digit")
}
