package files

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The patterns of sources are those of Go's filepath.Match, which Docker uses: "*" and "?" stand for no slash.

// hasGlob tells whether a name is a pattern.
func hasGlob(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// splitGlob cuts a clean absolute path before its first part that is a pattern.
func splitGlob(name string) (fixed, glob string) {
	parts := strings.Split(name, "/")
	i := slices.IndexFunc(parts, hasGlob)
	if i < 0 {
		return name, ""
	}
	return path.Join("/", path.Join(parts[:i]...)), path.Join(parts[i:]...)
}

// glob finds what matches below a folder, in the order of names. Links on the way there are followed, those that a pattern
// would have to go through are not.
func (r *Root) glob(ctx context.Context, fixed, glob string) ([]string, error) {
	parts := strings.Split(glob, "/")
	for _, part := range parts {
		if _, err := path.Match(part, ""); err != nil {
			return nil, refuse(`a "[" that is meant as such is written "[[]"`, "%s: syntax error in pattern", quoted(path.Join(fixed, glob)))
		}
	}
	here, err := walkTo(r.top, fixed, r.hidden)
	if err != nil && !errors.Is(err, unix.ENOTDIR) {
		return nil, &Error{Text: "look up " + quoted(fixed), Err: err}
	}
	defer here.close()
	if !here.isDir() {
		return nil, nil
	}
	var found []string
	w := walk{root: r, within: func(e *entry) bool {
		names := strings.Split(e.rel, "/")
		if len(names) > len(parts) {
			return !e.up.visited // it is hidden, and seen all the same if something in it is
		}
		ok, _ := path.Match(parts[len(names)-1], names[len(names)-1])
		return ok
	}}
	w.visit = func(e *entry) error {
		if e.rel != "" && strings.Count(e.rel, "/") == len(parts)-1 {
			found = append(found, path.Join("/", e.path))
		}
		return nil
	}
	return found, w.from(ctx, &here)
}

var errSeen = errors.New("seen")

// somethingIn tells whether anything in a folder is seen that is hidden itself.
func (r *Root) somethingIn(ctx context.Context, p *place) (bool, error) {
	if !p.isDir() {
		return false, nil
	}
	w := walk{root: r, visit: func(e *entry) error { return errSeen }}
	err := w.from(ctx, p)
	if errors.Is(err, errSeen) {
		return true, nil
	}
	return false, err
}
