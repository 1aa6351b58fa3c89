package unionfs

import "strings"

// How aufs writes down, with ordinary files, what is *not* there.
//
// A union cannot delete a file of a branch that it may only read. What it can do is to put something into the writable
// branch that says: look no further. Overlay uses a device file with number 0/0 for that, which only root can make; aufs
// a file with a reserved name, which anybody can make on any file system, and which a tar archive can carry. That is why
// image layers use aufs's form to this day, whichever driver unpacks them.
const (
	// whPrefix, before a name: that name is gone, whatever the branches below say.
	whPrefix = ".wh."
	// whMeta is how the names begin that are aufs's own. They hide nothing, and an image layer does not carry them.
	whMeta = ".wh..wh."
	// whOpaque, in a folder: nothing of the same folder in the branches below shows through.
	whOpaque = ".wh..wh..opq"
	// whBase is the one empty file, in the writable branch's root, that all whiteouts are hard links of: a whiteout
	// costs a name, and no inode.
	whBase = ".wh..wh.aufs"
	// whPlink is where aufs keeps pseudo-links. We make real ones at once, see linkAll, but keep the name free.
	whPlink = ".wh..wh.plnk"
	// whOrphan holds what is being made or unmade: files half copied up, folders on their way out. Whatever lies
	// there when a union is mounted was left by a crash.
	whOrphan = ".wh..wh.orph"
	// whListing begins the name of the folder in which the union lists its branches.
	whListing = ".wh..wh.si_"
)

// maxName is the longest name a union takes: a whiteout of it must still be a name, and that has a limit of 255.
const maxName = 255 - len(whPrefix) // 251

// reserved tells whether a name is aufs's own. Users can neither make such a file nor see one: else they could delete
// what they may not, in a branch they may write to, by a file that looks innocent.
func reserved(name string) bool { return strings.HasPrefix(name, whPrefix) }

// whiteoutOf is the name that hides name.
func whiteoutOf(name string) string { return whPrefix + name }

// hiddenBy is the name that a file of this name hides.
func hiddenBy(name string) (string, bool) {
	if strings.HasPrefix(name, whMeta) {
		return "", false
	}
	return strings.CutPrefix(name, whPrefix)
}
