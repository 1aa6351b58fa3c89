package suite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/doctor"
	"github.com/nslab/nslab/labs"
)

// The work folder of a run of the suite: <temporary folder>/nslab-test-*. A process that lives holds the lock in it, and
// the kernel frees the lock with the process: so a folder whose lock can be taken was left by a run that was killed.
const (
	workPattern = "nslab-test-"
	workLock    = ".lock"
)

// work is the folder of a run that goes on.
type work struct {
	dir  string
	lock *os.File
}

func newWork() (*work, error) {
	dir, err := os.MkdirTemp("", workPattern)
	if err != nil {
		return nil, fmt.Errorf("make a folder for the tests: %w", err)
	}
	lock, err := takeWork(dir)
	if err == nil {
		err = os.Chmod(dir, 0o755) // scripts run nslab as another user too
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &work{dir, lock}, nil
}

// takeWork locks a work folder, if no other process has.
func takeWork(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, workLock), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the tests: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// remove ends what still runs there, undoes what it has made, and deletes the folder.
func (w *work) remove() error {
	err := RemoveWork(w.dir)
	return errors.Join(err, w.lock.Close())
}

// RemoveWork does away with a work folder and with whatever scripts have left in it.
func RemoveWork(dir string) error {
	var errs []error
	killAll(dir)
	roots, _ := filepath.Glob(filepath.Join(dir, "script-*", ".run"))
	for _, root := range roots {
		_, err := course.Clean(labs.All(), root, true)
		_, probes := doctor.Clean(root)
		errs = append(errs, err, probes)
	}
	mounts, err := mountsMentioning(dir)
	if len(mounts) > 0 { // deleting through a mount deletes what it shows
		err = fmt.Errorf("remove %s: mounted there: %s", dir, strings.Join(mounts, ", "))
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// killAll ends all processes of the scripts below a folder, and what those start meanwhile.
func killAll(dir string) {
	for range 200 {
		pids := processesOf(dir + "/")
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL) // it bears a run root of ours in its environment
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Clean removes what killed runs of the suite have left, and returns their folders.
func Clean() (removed []string, err error) {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), workPattern+"*"))
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() {
			continue // not ours: anybody can make a folder in /tmp
		}
		lock, e := takeWork(dir)
		if errors.Is(e, unix.EWOULDBLOCK) {
			continue // it goes on
		}
		if e == nil {
			e = errors.Join(RemoveWork(dir), lock.Close())
		}
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		removed = append(removed, "test folder "+dir)
	}
	return removed, err
}
