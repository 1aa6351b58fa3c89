package unionfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// The property: whatever is done to a union, through whichever driver, it is what would have become of a plain folder.
//
// NSLAB_SEED chooses the sequence, NSLAB_OPERATIONS its length.

// old is when everything in the layers was last changed. A time after recent was given by the clock, during the test; it
// is another one on each side, and only its being recent is compared.
var (
	old    = time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	recent = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
)

func fromEnvironment(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	must(t, err)
	return n
}

// layerFile is something in a layer. A whiteout and an opaque folder are written in each driver's own form.
type layerFile struct {
	path string
	kind byte // f file, d folder, l link, p fifo, w whiteout, o opaque folder
	text string
}

// randomLayers makes three layers that have much in common, the topmost first.
func randomLayers(r *rand.Rand) [3][]layerFile {
	var layers [3][]layerFile
	view := map[string]byte{} // what the layers made so far show
	for i := len(layers) - 1; i >= 0; i-- {
		layers[i] = layerOver(r, view)
		for _, f := range layers[i] {
			if f.kind != 'd' || view[f.path] != 'd' && view[f.path] != 'o' {
				for path := range view {
					if strings.HasPrefix(path, f.path+"/") {
						delete(view, path)
					}
				}
			}
			view[f.path] = f.kind
			if f.kind == 'w' {
				delete(view, f.path)
			}
		}
	}
	return layers
}

// layerOver makes one. It has a whiteout only where there is something to hide: overlay lists one that hides nothing.
func layerOver(r *rand.Rand, below map[string]byte) []layerFile {
	var files []layerFile
	taken := map[string]byte{}
	for range 60 {
		path := randomPath(r)
		kind := "ffffddlpwo"[r.Intn(10)]
		ok := taken[path] == 0 && (kind != 'w' || below[path] != 0)
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			k := taken[dir]
			ok = ok && (k == 0 || k == 'd' || k == 'o' && kind != 'w')
		}
		if !ok {
			continue
		}
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			if taken[dir] == 0 {
				taken[dir] = 'd'
				files = append(files, layerFile{path: dir, kind: 'd'})
			}
		}
		taken[path] = kind
		files = append(files, layerFile{path, kind, strings.Repeat(path, r.Intn(3000))})
	}
	slices.SortStableFunc(files, func(a, b layerFile) int { return strings.Compare(a.path, b.path) })
	return files
}

func randomPath(r *rand.Rand) string {
	parts := make([]string, 1+r.Intn(4))
	for i := range parts {
		parts[i] = string(rune('a' + r.Intn(6)))
	}
	return filepath.Join(parts...)
}

// writeLayer writes a layer in the form of a driver.
func writeLayer(t *testing.T, dir string, files []layerFile, d Driver, xattr string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for _, f := range files {
		path := filepath.Join(dir, f.path)
		parent, name := filepath.Split(path)
		switch f.kind {
		case 'f':
			must(t, os.WriteFile(path, []byte(f.text), 0o640))
			must(t, unix.Setxattr(path, "user.layer", []byte(f.path), 0))
		case 'd', 'o':
			must(t, os.Mkdir(path, 0o755))
		case 'l':
			must(t, os.Symlink("../"+f.path, path))
		case 'p':
			must(t, unix.Mkfifo(path, 0o600))
		}
		switch {
		case f.kind == 'w' && d == Overlay:
			writeOverlayWhiteout(t, parent, name, xattr)
		case f.kind == 'w':
			must(t, os.WriteFile(filepath.Join(parent, whiteoutOf(name)), nil, 0o444))
		case f.kind == 'o' && d == Overlay:
			must(t, unix.Setxattr(path, xattr+"opaque", []byte("y"), 0))
		case f.kind == 'o':
			must(t, os.WriteFile(filepath.Join(path, whOpaque), nil, 0o444))
		}
	}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts := unix.NsecToTimespec(old.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// writeOverlayWhiteout makes a device 0/0. A user namespace may make that one, and no other.
func writeOverlayWhiteout(t *testing.T, parent, name, _ string) {
	t.Helper()
	must(t, unix.Mknod(filepath.Join(parent, name), unix.S_IFCHR, 0))
}

// side is one of the three that are compared.
type side struct {
	name  string
	root  string
	kept  map[int]*os.File
	loose bool // the times of its folders are not compared
}

// operation is done on every side; what it returns must be the same.
type operation struct {
	text string
	do   func(s *side) (string, error)
}

func TestProperty(t *testing.T) {
	coursetest.NeedRoot(t) // of a user namespace will do
	seed := fromEnvironment(t, "NSLAB_SEED", time.Now().UnixNano())
	count := fromEnvironment(t, "NSLAB_OPERATIONS", 3000)
	t.Logf("NSLAB_SEED=%d NSLAB_OPERATIONS=%d", seed, count)
	// Its mounts are nobody else's. The thread is never unlocked: it ends with the test, and the namespace with it.
	runtime.LockOSThread()
	must(t, mount.Unshare(t.Context()))
	must(t, mount.PrivateTree(t.Context(), "/"))
	runProperty(t, rand.New(rand.NewSource(seed)), int(count))
}

// TestPropertyUser does the same as an ordinary user, who is root in a user namespace only.
func TestPropertyUser(t *testing.T) {
	coursetest.NeedRoot(t) // to become nobody
	dir, err := os.MkdirTemp("/var/tmp", "unionfs")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o777))
	self, err := os.Executable()
	must(t, err)
	binary, err := os.ReadFile(self)
	must(t, err)
	program := filepath.Join(dir, "program")
	must(t, os.WriteFile(program, binary, 0o755))
	// On most machines everybody may open /dev/fuse; here, everybody may in any case.
	device := filepath.Join(dir, "fuse")
	must(t, unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))))
	must(t, os.Chmod(device, 0o666))
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", `
		mount --bind "$1" /dev/fuse
		exec setpriv --reuid=65534 --regid=65534 --clear-groups \
			unshare --user --map-root-user --mount "$2" -test.run='^TestProperty$' -test.v`,
		"sh", device, program)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestProperty")) {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
}

func runProperty(t *testing.T, r *rand.Rand, count int) {
	dir := t.TempDir()
	data, xattr := "", "trusted.overlay."
	if mount.InUserNamespace() {
		data, xattr = ",userxattr", "user.overlay."
	}
	layers := randomLayers(r)
	var list []Branch
	var lower []string
	for i, files := range layers {
		forOverlay, forAufs := filepath.Join(dir, fmt.Sprint("overlay", i)), filepath.Join(dir, fmt.Sprint("aufs", i))
		writeLayer(t, forOverlay, files, Overlay, xattr)
		writeLayer(t, forAufs, files, AufsFUSE, xattr)
		lower = append(lower, forOverlay)
		list = append(list, Branch{forAufs, ROWH})
	}
	for _, name := range []string{"upper", "work", "overlay", "rw", "aufs"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	ctx := context.Background()
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s%s", strings.Join(lower, ":"), at("upper"), at("work"), data)
	must(t, mount.Syscall(ctx, "overlay", at("overlay"), "overlay", 0, options))
	defer func() { must(t, mount.Unmount(ctx, at("overlay"))) }()
	list = append([]Branch{{at("rw"), RW}}, list...)
	u, err := mountFUSE(ctx, list, at("aufs"))
	must(t, err)
	defer func() { must(t, u.Unmount(ctx)) }()
	must(t, copyTree(at("overlay"), at("plain")))
	sides := []*side{
		{name: "plain", root: at("plain")},
		// It notes in a folder itself that the folder holds copied files, which changes the folder's time.
		{name: "overlay", root: at("overlay"), loose: true},
		{name: "aufs-fuse", root: at("aufs")},
	}
	if mount.InUserNamespace() {
		// There overlay cannot note on links and devices what they were copied from, and parts the names of one file; and
		// now and then a rename is answered with ESTALE. It is no measure for ours: the plain folder is.
		sides = slices.Delete(sides, 1, 2)
	}
	for _, s := range sides {
		s.kept = map[int]*os.File{}
	}
	defer closeKept(sides) // before the unmounts above
	compareSides(t, sides, "at the beginning")
	var paths []string
	var log []string
	for i := range count {
		if i%20 == 0 {
			paths = walkNames(t, at("plain"))
		}
		op := randomOperation(r, paths)
		log = append(log, op.text)
		if !doEverywhere(t, sides, op) {
			t.Fatalf("after:\n%s", strings.Join(log[max(0, len(log)-30):], "\n"))
		}
		if i%500 == 499 {
			if !compareSides(t, sides, fmt.Sprintf("after %d operations", i+1)) {
				t.Fatalf("after:\n%s", strings.Join(log[max(0, len(log)-500):], "\n"))
			}
			closeKept(sides)
			must(t, u.Unmount(ctx)) // what is on disk must say the same to a server that was not there
			u, err = mountFUSE(ctx, list, at("aufs"))
			must(t, err)
			compareSides(t, sides, "mounted again")
		}
	}
	closeKept(sides)
	compareSides(t, sides, "at the end")
	left, err := os.ReadDir(filepath.Join(at("rw"), whOrphan))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("%s still holds %v", whOrphan, left)
	}
}

func closeKept(sides []*side) {
	for _, s := range sides {
		for k, f := range s.kept {
			f.Close()
			delete(s.kept, k)
		}
	}
}

// doEverywhere does an operation on all sides and compares the answers. On EXDEV, which the unions may say of a folder,
// all sides do what mv(1) does then.
func doEverywhere(t *testing.T, sides []*side, op operation) bool {
	t.Helper()
	type answer struct {
		text  string
		errno syscall.Errno
	}
	answers, ours := make([]answer, len(sides)), len(sides)-1
	for i := range slices.Backward(sides) { // plain last: it knows no EXDEV
		if i == 0 && answers[ours].errno == unix.EXDEV {
			answers[0] = answers[ours]
			break
		}
		text, err := op.do(sides[i])
		answers[i].text = text
		if err != nil && !errors.As(err, &answers[i].errno) {
			t.Errorf("%s on %s: %v", op.text, sides[i].name, err)
			return false
		}
	}
	for i := range answers {
		same := answers[i] == answers[0]
		if strings.HasPrefix(op.text, "keep read") && sides[i].name == "overlay" {
			same = true // overlay reads the original through a descriptor opened before the copy-up, and documents it
		}
		if !same {
			t.Errorf("%s: %s answers %.60q %v, %s %.60q %v", op.text, sides[i].name, answers[i].text, answers[i].errno,
				sides[0].name, answers[0].text, answers[0].errno)
			return false
		}
	}
	if answers[ours].errno == unix.EXDEV {
		for _, s := range sides {
			var from, to string
			fmt.Sscanf(op.text, "rename %s %s", &from, &to)
			must(t, moveByCopy(filepath.Join(s.root, from), filepath.Join(s.root, to)))
		}
	}
	return true
}
