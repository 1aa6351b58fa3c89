package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// An archive of images is a few texts that say what belongs together, and layers. Where its files can be looked up, in a folder
// or in a tar on a disk, the texts are read first, and then the layers, several at a time, and only those that are missing.
// A pipe shows each file once, in an order that the sender chose, and most of them send the texts last: there what looks like a
// layer is unpacked as it comes, and what it belongs to is found out at the end.

// archive finds files by their names. The error of one that is not there is fs.ErrNotExist.
type archive interface {
	open(name string) (io.ReadCloser, int64, error)
}

// readText reads one of an archive's small files.
func readText(a archive, name string, limit int64) ([]byte, error) {
	f, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if size > limit {
		err = fmt.Errorf("%s has %d bytes, more than %d: %w", name, size, limit, unix.EFBIG)
		return nil, errors.Join(err, f.Close())
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return data, errors.Join(err, f.Close())
}

// folderArchive is a folder: an OCI layout, or a tar that somebody has unpacked. Nothing outside of it is opened, whatever
// links there are.
type folderArchive struct{ root *os.Root }

func (a folderArchive) open(name string) (io.ReadCloser, int64, error) {
	f, err := a.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// The most that an archive may have, but for its layers.
const (
	maxArchiveFiles = 100_000
	maxArchiveTexts = 64 << 20 // of texts in memory, read from a pipe
)

// tarArchive is a tar on a disk.
type tarArchive struct {
	r     io.ReaderAt
	files map[string]tarMember
}

type tarMember struct {
	at, size int64
	link     string // another member
}

// indexTar lists the members of a tar. r can seek, so what is in them is not read.
func indexTar(r io.ReadSeeker, at io.ReaderAt) (*tarArchive, error) {
	a := &tarArchive{at, map[string]tarMember{}}
	in := tar.NewReader(r)
	end := int64(0) // of the last member
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			at, err := r.Seek(0, io.SeekCurrent)
			if err == nil && at < end+tarBlock {
				err = errCutOff
			}
			return a, err
		}
		if err == nil && len(a.files) > maxArchiveFiles {
			err = fmt.Errorf("more than %d files: %w", maxArchiveFiles, unix.EFBIG)
		}
		if err != nil {
			return nil, err
		}
		begin, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		end = begin + (h.Size+tarBlock-1)&^(tarBlock-1)
		if m, ok := memberOf(h); ok {
			m.at = begin
			a.files[memberName(h.Name)] = m
		}
	}
}

// errCutOff is an archive without its end mark, a block of zeros. Every program writes one, and without it an archive that was
// cut off between two files looks whole.
var errCutOff = fmt.Errorf("the archive has no end mark: it was cut off: %w", io.ErrUnexpectedEOF)

// zeroCounter counts the zeros at the end of what was read.
type zeroCounter struct {
	io.Reader
	zeros int
}

func (z *zeroCounter) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	rest := bytes.TrimRight(p[:n], "\x00")
	if len(rest) > 0 {
		z.zeros = 0
	}
	z.zeros += n - len(rest)
	return n, err
}

// memberOf tells what a member is, and whether it is of interest. Older Dockers store a layer that two images have in common
// once, and a link to it.
func memberOf(h *tar.Header) (m tarMember, ok bool) {
	switch h.Typeflag {
	case tar.TypeReg:
		return tarMember{size: h.Size}, !isSparseHeader(h)
	case tar.TypeSymlink:
		return tarMember{link: memberName(path.Join(path.Dir(memberName(h.Name)), h.Linkname))}, true
	case tar.TypeLink:
		return tarMember{link: memberName(h.Linkname)}, true
	}
	return m, false
}

// isSparseHeader tells of a file that does not lie in the tar as it is. Nobody packs an archive of images like that.
func isSparseHeader(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// memberName makes one name of "a/b", "./a/b" and "/a/b".
func memberName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

const maxLinks = 8 // from one member to the next

func (a *tarArchive) open(name string) (io.ReadCloser, int64, error) {
	name = memberName(name)
	for range maxLinks {
		m, ok := a.files[name]
		if !ok {
			break
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(a.r, m.at, m.size)), m.size, nil
		}
		name = m.link
	}
	return nil, 0, fmt.Errorf("%s is not in the archive: %w", name, fs.ErrNotExist)
}

// looksLikeLayer says whether a file that begins like this can be a layer: a tar, or something packed. An empty tar is zeros.
func looksLikeLayer(head []byte) bool {
	for _, p := range packings() {
		if p.mediaType != "" && bytes.HasPrefix(head, []byte(p.magic)) {
			return true
		}
	}
	const magicAt = 257 // of "ustar", tar(5)
	return len(head) == tarBlock && (string(head[magicAt:magicAt+5]) == "ustar" || len(bytes.Trim(head, "\x00")) == 0)
}

const tarBlock = 512

// looksLikeText says whether it can be JSON.
func looksLikeText(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	return len(head) > 0 && (head[0] == '{' || head[0] == '[')
}
