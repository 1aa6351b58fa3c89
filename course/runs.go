package course

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The files of a run: <run root>/labs/<id>/. While any of its processes lives, one of them holds the lock; the kernel
// frees it with the last, however that ends. So a folder whose lock can be taken is a run that is over. The names begin
// with a dot, since the folders of steps lie beside them and are named after the steps, see [T.Dir].
const (
	labsFolder  = "labs"
	journalFile = ".journal"
	lockFile    = ".lock"
	guardFile   = ".guard" // the guard: "pid starttime"
	keptFile    = ".kept"  // the process that `--keep` left, likewise
)

// RunRoot is the folder for run state, gone at reboot: flag if set, else NSLAB_RUN_ROOT, else /run/nslab for root and the
// user's runtime folder for others.
func RunRoot(flag string) string {
	switch {
	case flag != "":
		return flag
	case os.Getenv("NSLAB_RUN_ROOT") != "":
		return os.Getenv("NSLAB_RUN_ROOT")
	case os.Geteuid() == 0:
		return "/run/nslab"
	case os.Getenv("XDG_RUNTIME_DIR") != "":
		return filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "nslab")
	}
	return filepath.Join(os.TempDir(), "nslab-"+strconv.Itoa(os.Geteuid()))
}

// run is the folder of one `nslab run`.
type run struct {
	id, dir string
	lock    *os.File
}

// newRun claims a folder below root.
func newRun(root string) (*run, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("run root: %w", err)
	}
	labs, err := openLabs(root)
	if err != nil {
		return nil, err
	}
	defer labs.Close() // and with it the lock that keeps `nslab clean` off a folder that is not locked yet
	for range 10_000 { // there are a thousand ids: if most are taken, something has not been cleaned up for long
		id := newID(root)
		r := &run{id: id, dir: filepath.Join(root, labsFolder, id)}
		err := os.Mkdir(r.dir, 0o711) // box processes of other users pass through it, nobody lists it
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make the run's folder: %w", err)
		}
		if r.lock, err = os.OpenFile(filepath.Join(r.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("make the run's lock: %w", err), os.RemoveAll(r.dir))
		}
		if err := unix.Flock(int(r.lock.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("lock the run: %w", err), r.lock.Close(), os.RemoveAll(r.dir))
		}
		if err := writeProcess(filepath.Join(r.dir, guardFile), os.Getpid()); err != nil {
			return nil, errors.Join(err, r.lock.Close(), os.RemoveAll(r.dir))
		}
		return r, nil
	}
	return nil, fmt.Errorf("make the run's folder: too many runs below %s: 'nslab clean' removes those that are over", root)
}

// openLabs opens the folder of all runs, made if need be, and locks it: runs are made and looked for one at a time.
func openLabs(root string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Join(root, labsFolder), 0o711); err != nil {
		return nil, fmt.Errorf("make the run root: %w", err)
	}
	// The run root may lie in /tmp, where anybody could have put it there for us.
	if info, err := os.Lstat(root); err != nil {
		return nil, fmt.Errorf("run root: %w", err)
	} else if st := info.Sys().(*syscall.Stat_t); !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("run root %s: not a folder of uid %d", root, os.Geteuid())
	}
	labs, err := os.Open(filepath.Join(root, labsFolder))
	if err != nil {
		return nil, fmt.Errorf("open the run root: %w", err)
	}
	if err := unix.Flock(int(labs.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the run root: %w", err), labs.Close())
	}
	return labs, nil
}

// newID names a run after its run root and at random, so that whoever uses one root can tell its things by name from
// those of another.
func newID(root string) string {
	return IDPrefix(root) + strings.ToLower(rand.Text()[:2])
}

// IDPrefix is what the ids of all runs below a run root begin with: "3f9c02-". It is long enough that, of a few hundred
// roots in use at once, no two share one, and short enough to be read in every path.
func IDPrefix(root string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(root)))
	return hex.EncodeToString(sum[:3]) + "-"
}

// remove deletes the run's folder. Nothing is mounted below it on the host, or it is left alone: deleting through a
// mount would delete what was mounted.
func (r *run) remove() error {
	mounts, err := mountsBelow(r.dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove %s: %s is mounted there", r.dir, strings.Join(mounts, ", "))
	}
	if err := removeTree(r.dir); err != nil {
		return fmt.Errorf("remove the run's folder: %w", err)
	}
	return r.lock.Close()
}

// Runs sorts the runs below a run root by their ids: those that are over and have left something, those that `--keep`
// keeps, and those that go on. It changes nothing.
func Runs(root string) (over, kept, alive []string, err error) {
	dir := filepath.Join(root, labsFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil, nil
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list the run root: %w", err)
	}
	for _, e := range entries {
		r := &run{id: e.Name(), dir: filepath.Join(dir, e.Name())}
		lock, err := os.Open(filepath.Join(r.dir, lockFile))
		if err != nil {
			over = append(over, r.id)
			continue
		}
		// Shared, so that nobody who asks at the same time takes us for the run.
		held := errors.Is(unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
		lock.Close()
		switch {
		case held && isKept(r):
			kept = append(kept, r.id)
		case held:
			alive = append(alive, r.id)
		default:
			over = append(over, r.id)
		}
	}
	return over, kept, alive, nil
}
