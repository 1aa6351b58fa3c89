package unionfs

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode says what a union may do with a branch, in aufs's words.
type Mode string

const (
	RW   Mode = "rw"    // changes go here
	RO   Mode = "ro"    // only read; a name beginning with .wh. hides nothing here, and is not shown either
	ROWH Mode = "ro+wh" // only read, but it was a writable branch once: its whiteouts count
)

// Branch is one folder of a union, aufs's word for a layer.
type Branch struct {
	Path string
	Mode Mode
}

// String is the form in which aufs lists a branch: "/path=rw".
func (b Branch) String() string { return b.Path + "=" + string(b.Mode) }

// BranchError is a branch that a union cannot be made of.
type BranchError struct {
	Branch Branch
	Err    error
}

func (e *BranchError) Error() string { return fmt.Sprintf("branch %s: %v", e.Branch, e.Err) }

// Unwrap lets errors.Is find the errno.
func (e *BranchError) Unwrap() error { return e.Err }

// What else may be wrong with a list of branches.
var (
	ErrNoBranch    = errors.New("a union needs at least one branch")
	ErrSecondRW    = errors.New("only the first branch can be rw: changes go to one place")
	ErrUnknownMode = errors.New("a branch is rw, ro or ro+wh")
	ErrBranchBusy  = errors.New("another union writes to it")
)

// ParseBranches reads aufs's mount option: "br:A=rw:B=ro", "br=A=rw:B=ro" or "dirs=A=rw:B=ro", the topmost branch first.
//
// As in aufs, the first branch is rw and the others are ro where nothing is said. A colon separates, so no path may have
// one; an equals sign may, since only what follows the last one can be a mode.
func ParseBranches(option string) ([]Branch, error) {
	list, ok := "", false
	for _, prefix := range []string{"br:", "br=", "dirs=", "dirs:"} {
		if list, ok = strings.CutPrefix(option, prefix); ok {
			break
		}
	}
	if !ok {
		return nil, fmt.Errorf("parse branches %q: it begins with br: or dirs=", option)
	}
	var branches []Branch
	for i, word := range strings.Split(list, ":") {
		b, err := parseBranch(word, i == 0)
		if err != nil {
			return nil, fmt.Errorf("parse branches %q: %w", option, err)
		}
		branches = append(branches, b)
	}
	if err := checkBranches(branches); err != nil {
		return nil, fmt.Errorf("parse branches %q: %w", option, err)
	}
	return branches, nil
}

func parseBranch(word string, first bool) (Branch, error) {
	b := Branch{Path: word, Mode: RO}
	if first {
		b.Mode = RW
	}
	if i := strings.LastIndexByte(word, '='); i >= 0 {
		// aufs's own +wh also stands beside rr, "really read-only", which to us is the same.
		switch mode := word[i+1:]; mode {
		case "rw", "ro", "ro+wh":
			b.Path, b.Mode = word[:i], Mode(mode)
		case "rr":
			b.Path, b.Mode = word[:i], RO
		case "rr+wh":
			b.Path, b.Mode = word[:i], ROWH
		default:
			if !strings.Contains(mode, "/") { // else the sign is part of the path
				return b, &BranchError{Branch{word[:i], Mode(mode)}, ErrUnknownMode}
			}
		}
	}
	if b.Path == "" {
		return b, errors.New("a branch has no path")
	}
	return b, nil
}

// checkBranches is what can be said without looking at the folders.
func checkBranches(branches []Branch) error {
	if len(branches) == 0 {
		return ErrNoBranch
	}
	if len(branches) > maxBranches {
		return fmt.Errorf("%d branches: a union holds %d", len(branches), maxBranches)
	}
	for i, b := range branches {
		switch {
		case b.Mode == RW && i > 0:
			return &BranchError{b, ErrSecondRW}
		case b.Mode != RW && b.Mode != RO && b.Mode != ROWH:
			return &BranchError{b, ErrUnknownMode}
		}
	}
	return nil
}

// resolveBranches makes the paths absolute and sees that each is a folder, before anything is mounted.
func resolveBranches(branches []Branch) ([]Branch, error) {
	if err := checkBranches(branches); err != nil {
		return nil, err
	}
	seen := map[[2]uint64]Branch{}
	var out []Branch
	for _, b := range branches {
		path, err := filepath.Abs(b.Path)
		if err != nil {
			return nil, &BranchError{b, err}
		}
		b.Path = path
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return nil, &BranchError{b, err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, &BranchError{b, unix.ENOTDIR}
		}
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if other, twice := seen[id]; twice {
			return nil, &BranchError{b, fmt.Errorf("it is the same folder as branch %s", other)}
		}
		seen[id] = b
		out = append(out, b)
	}
	return out, nil
}

// branchesOf writes layers as branches. The lower ones are ro+wh: each was, or could have been, the writable branch of an
// earlier union, so what was deleted there must stay deleted.
func branchesOf(l Layers) []Branch {
	var branches []Branch
	if l.Upper != "" {
		branches = append(branches, Branch{l.Upper, RW})
	}
	for _, dir := range l.Lower {
		branches = append(branches, Branch{dir, ROWH})
	}
	return branches
}
