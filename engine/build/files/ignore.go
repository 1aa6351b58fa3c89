package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"golang.org/x/sys/unix"
)

// patterns are those of .dockerignore, of --exclude, or of COPY --parents. A nil one matches nothing.
type patterns struct {
	m    *patternmatcher.PatternMatcher
	list []pattern
}

type pattern struct {
	parts     []string
	exception bool // "!docs/*.md"
}

func newPatterns(list []string) (*patterns, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m, err := patternmatcher.New(list)
	if err != nil {
		return nil, fmt.Errorf("patterns %q: %w", strings.Join(list, " "), err)
	}
	p := &patterns{m: m}
	for _, one := range m.Patterns() {
		p.list = append(p.list, pattern{parts: strings.Split(one.String(), "/"), exception: one.Exclusion()})
	}
	return p, nil
}

// match tells whether a path matches, given what its folder's matching came to.
func (p *patterns) match(name string, folder patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo, error) {
	if p == nil {
		return false, patternmatcher.MatchInfo{}, nil
	}
	return p.m.MatchesUsingParentResults(name, folder)
}

// matchPath is match where nothing is known of the folder.
func (p *patterns) matchPath(name string) (is bool, info patternmatcher.MatchInfo, err error) {
	if p == nil || name == "" {
		return false, info, nil
	}
	for i := range len(name) + 1 {
		if i == len(name) || name[i] == '/' {
			if is, info, err = p.match(name[:i], info); err != nil {
				return false, info, err
			}
		}
	}
	return is, info, nil
}

// below tells whether something in a folder could match a pattern (or, with exceptions, an exception) when the folder
// itself does not: without that, nobody needs to look into it. It says yes too often rather than too rarely.
func (p *patterns) below(folder string, exceptions bool) bool {
	if p == nil {
		return false
	}
	parts := strings.Split(folder, "/")
	for _, one := range p.list {
		if one.exception == exceptions && one.reaches(parts) {
			return true
		}
	}
	return false
}

func (p pattern) reaches(folder []string) bool {
	for i, part := range folder {
		if i == len(p.parts) || strings.Contains(p.parts[i], "**") {
			return true
		}
		if ok, err := path.Match(p.parts[i], part); err == nil && !ok {
			return false
		}
	}
	return true
}

const (
	ignoreName = ".dockerignore"
	maxIgnore  = 1 << 20 // nobody has written a longer one by hand, and each pattern is tried on each file
)

// readIgnore reads patterns, one a line, to which some more are added.
func readIgnore(name string, text []byte, more ...string) (*patterns, error) {
	list, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", quoted(name), err)
	}
	p, err := newPatterns(append(list, more...))
	if err != nil {
		return nil, &Error{Text: fmt.Sprintf("read %s", quoted(name)), Err: err}
	}
	return p, nil
}

// avoided are the patterns of the folders that lie in a context and are none of its own. The store of images is one: a copy of it
// would be made in the store, and so have itself to copy.
func avoided(context string, folders []string) (list []string, err error) {
	top, err := realPath(context)
	if err != nil {
		return nil, err
	}
	for _, f := range folders {
		f, err := realPath(f)
		if err != nil {
			continue // it is not there
		}
		rel, err := filepath.Rel(top, f)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		if rel == "." {
			return nil, &Error{Text: "the context " + quoted(context) + " is nslab's own folder"}
		}
		list = append(list, escape.Replace(rel))
	}
	return list, nil
}

func realPath(name string) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// escape makes a pattern of a name.
var escape = strings.NewReplacer("\\", "\\\\", "*", "\\*", "?", "\\?", "[", "\\[")

// errIrregular is a file that is to be read and cannot be: a folder, a FIFO on which one waits for ever, or a device.
var errIrregular = errors.New("not a regular file")

// readText reads a whole file that was looked up by walkTo.
func readText(p *place, most int64) ([]byte, error) {
	if kind(&p.st) != unix.S_IFREG {
		return nil, errIrregular
	}
	f, err := openRead(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("more than %d bytes: %w", most, unix.EFBIG)
	}
	return text, err
}
