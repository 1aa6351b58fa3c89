package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nslab/nslab/jsonfile"
)

// A name is a symbolic link in names/ whose text is the id of its container. symlink(2) makes name and text in one step or
// fails, so of ten processes that want one name, one gets it. A link to a container that is no more is nobody's.

// ErrName is a name that no container can have.
var ErrName = errors.New("only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")

// namePattern is Docker's.
var namePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`) })

const maxName = 128

// CheckName says what is wrong with a container's name. Names become file names: neither "/" nor a control character
// gets in.
func CheckName(name string) error {
	if len(name) > maxName || !namePattern().MatchString(name) {
		return &InputError{What: "container name", Value: name, Err: ErrName}
	}
	return nil
}

// claim takes a name for a container.
func (e *Engine) claim(name, id string) error {
	if err := os.MkdirAll(e.namesDir(), 0o700); err != nil {
		return fmt.Errorf("claim the name %s: %w", name, jsonfile.Cause(err))
	}
	link := filepath.Join(e.namesDir(), name)
	for range 10 {
		err := os.Symlink(id, link)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("claim the name %s: %w", name, linkCause(err))
		}
		owner, err := os.Readlink(link)
		if err != nil {
			continue // given back in the meantime
		}
		if owner == id {
			return nil
		}
		if e.exists(owner) && !e.leftName(name, owner) {
			return &NameError{Name: name, Owner: owner}
		}
		e.dropName(name, owner)
	}
	return fmt.Errorf("claim the name %s: others are claiming it all the time", name)
}

// leftName tells whether a name that leads to a container is not its own: a rename was killed before it could take it back.
func (e *Engine) leftName(name, owner string) bool {
	var r Record
	err := readJSON(filepath.Join(e.containersDir(), owner, recordFile), &r)
	return err == nil && r.Name != name && !locked(filepath.Join(e.runDir(), owner, "lock"))
}

// dropName removes a name whose container was never finished, or is gone. It is renamed first: whoever takes the same one aside
// finds nothing there any more, so that nobody removes a link that was claimed meanwhile.
func (e *Engine) dropName(name, owner string) bool {
	link := filepath.Join(e.namesDir(), name)
	aside := link + "~" + owner[:min(12, len(owner))] + strconv.Itoa(os.Getpid())
	if os.Rename(link, aside) != nil {
		return false
	}
	now, err := os.Readlink(aside)
	claimed := err == nil && now != owner
	if claimed {
		os.Symlink(now, link) // it was claimed after the caller had looked: put it back
	}
	return os.Remove(aside) == nil && !claimed
}

func linkCause(err error) error {
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

// disclaim gives a name back, if it is the container's.
func (e *Engine) disclaim(name, id string) error {
	link := filepath.Join(e.namesDir(), name)
	if owner, err := os.Readlink(link); err != nil || owner != id {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give the name %s back: %w", name, jsonfile.Cause(err))
	}
	return nil
}

// exists tells whether there is a container of this id, finished or being made.
func (e *Engine) exists(id string) bool {
	_, err := os.Lstat(filepath.Join(e.containersDir(), id))
	return err == nil
}

// claimAny takes a name that nobody has: an adjective and somebody who has moved computing forward, as Docker's are.
func (e *Engine) claimAny(id string) (string, error) {
	for try := range 100 {
		name := pick(adjectives) + "_" + pick(people)
		if try > 10 {
			name += "_" + id[:6]
		}
		err := e.claim(name, id)
		var taken *NameError
		if errors.As(err, &taken) {
			continue
		}
		return name, err
	}
	return "", errors.New("find a free name: all are taken")
}

func pick(list string) string {
	words := strings.Fields(list)
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		return words[0]
	}
	return words[n.Int64()]
}

// What random names are made of.
const (
	adjectives = "able brave bright calm clever cool eager early fair fast fine fond free fresh glad good happy keen kind " +
		"lively lucky merry mild neat noble plain proud quick quiet ready sharp silent smart solid steady sunny swift tidy warm wise"
	people = "allen babbage bartik berners borg boole cerf church codd conway curie dijkstra engelbart euler floyd goldberg " +
		"hamilton hamming hopper johnson kahn kay kernighan kilburn knuth lamport liskov lovelace mccarthy milner moore naur noether " +
		"perlis perlman postel ritchie sammet shannon stallman tanenbaum thompson torvalds turing wilkes wirth zuse"
)

// IDs lists all containers, those that are being made too.
func (e *Engine) ids() ([]string, error) {
	entries, err := os.ReadDir(e.containersDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list containers: %w", jsonfile.Cause(err))
	}
	var list []string
	for _, d := range entries {
		if len(d.Name()) == 64 && d.IsDir() {
			list = append(list, d.Name())
		}
	}
	return list, nil
}

// find returns the id that a name, an id or the beginning of one stands for. A name wins, as in Docker.
func (e *Engine) find(ref string) (string, error) {
	ref = strings.TrimPrefix(ref, "/") // as inspect shows names
	if ref == "" {                     // which is the beginning of every id
		return "", &InputError{What: "container name", Value: ref, Err: errors.New("it is empty")}
	}
	if len(ref) == 64 && filepath.Base(ref) == ref && e.exists(ref) {
		return ref, nil
	}
	if namePattern().MatchString(ref) {
		if id, err := os.Readlink(filepath.Join(e.namesDir(), ref)); err == nil && e.exists(id) {
			return id, nil
		}
	}
	ids, err := e.ids()
	if err != nil {
		return "", err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, ref) })
	switch len(ids) {
	case 0:
		return "", &NotFoundError{Ref: ref}
	case 1:
		return ids[0], nil
	}
	return "", &AmbiguousError{Ref: ref, Count: len(ids)}
}
