package unionfs

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The listing is what aufs shows under /sys/fs/aufs/si_<id>: a folder with a file br<n> for each branch. It exists in no
// branch, so its nodes have numbers of their own, and are nowhere in the tables.
const (
	listingID   = 2
	firstFile   = 3
	firstFreeID = firstFile + maxBranches
)

func isListing(id uint64) bool { return id >= listingID && id < firstFreeID }

// branchLine is what br<n> reads.
func (s *server) branchLine(id uint64) []byte {
	return []byte(s.layers[id-firstFile].String() + "\n")
}

// lookupListing finds br<n>, or with an empty name the folder itself.
func (s *server) lookupListing(name string, out *fuse.EntryOut) fuse.Status {
	id := uint64(listingID)
	for i := range s.layers {
		if name == fmt.Sprintf("br%d", i) {
			id = firstFile + uint64(i)
		}
	}
	if name != "" && id == listingID {
		return fuse.ENOENT
	}
	out.NodeId, out.EntryValid, out.AttrValid = id, forever, forever
	return s.attrOfListing(id, &out.Attr)
}

func (s *server) attrOfListing(id uint64, out *fuse.Attr) fuse.Status {
	out.Ino, out.Nlink, out.Blksize = id, 1, 4096
	out.Uid, out.Gid = s.uid, s.gid
	if id == listingID {
		out.Mode = unix.S_IFDIR | 0o555
		return fuse.OK
	}
	out.Mode, out.Size = unix.S_IFREG|0o444, uint64(len(s.branchLine(id)))
	return fuse.OK
}

func (s *server) readBranchFile(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	line := s.branchLine(in.NodeId)
	from := min(in.Offset, uint64(len(line)))
	return fuse.ReadResultData(buf[:copy(buf, line[from:])]), fuse.OK
}

func (s *server) readListing(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	for at := in.Offset; at < uint64(len(s.layers))+2; at++ {
		d := fuse.DirEntry{Name: ".", Mode: unix.S_IFDIR, Ino: listingID, Off: at + 1}
		switch {
		case at == 1:
			d.Name = ".."
		case at > 1:
			d = fuse.DirEntry{Name: fmt.Sprintf("br%d", at-2), Mode: unix.S_IFREG, Ino: firstFile + at - 2, Off: at + 1}
		}
		if !addDots(out, d, plus) {
			break
		}
	}
	return fuse.OK
}
