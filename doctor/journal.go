package doctor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
)

// journalFolder holds, below the run root, a file for each doctor that has something on the host right now. While it
// lives it holds a lock on the file, which the kernel frees however it ends: an unlocked file is a doctor that was killed.
//
// Nothing is synced. A killed process loses nothing that it wrote, and a crash of the machine takes the control groups
// with it.
const journalFolder = "doctor"

// groupPrefix starts the names of the groups that doctors make.
const groupPrefix = "nslab-doctor-"

type journal struct {
	file *os.File
	root string
}

// openJournal starts a journal, after it has undone those that killed doctors left.
func openJournal(runRoot string) (*journal, error) {
	if _, err := cleanJournals(runRoot); err != nil {
		return nil, err
	}
	for range 100 { // another doctor may remove the empty folder just now
		dir, err := ownFolder(runRoot)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		file, err := os.CreateTemp(dir, "")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make a journal: %w", err)
		}
		j := &journal{file: file, root: runRoot}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			file.Close()
			continue // a doctor that cleans took it for left behind
		}
		if !linked(file) {
			file.Close()
			continue
		}
		return j, nil
	}
	return nil, fmt.Errorf("make a journal in %s: %w", runRoot, errBusy)
}

// ownFolder makes the folder for journals. The run root may lie in /tmp, where anybody could have put it for us.
func ownFolder(runRoot string) (string, error) {
	dir := filepath.Join(runRoot, journalFolder)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make the run root: %w", err)
	}
	for _, d := range []string{runRoot, dir} {
		info, err := os.Lstat(d)
		if err != nil {
			return "", fmt.Errorf("run root: %w", err)
		}
		if st := info.Sys().(*syscall.Stat_t); !info.IsDir() || int(st.Uid) != os.Geteuid() {
			return "", fmt.Errorf("run root %s: not a folder of uid %d", d, os.Geteuid())
		}
	}
	return dir, nil
}

// linked says whether the file still has a name.
func linked(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink > 0
}

// groupName is the name of the groups that this doctor makes: unique below the run root, as the file is.
func (j *journal) groupName() string {
	return groupPrefix + course.IDPrefix(j.root) + filepath.Base(j.file.Name())
}

// begin writes down what is about to be made. The journal is done with only as a whole, when it is closed.
func (j *journal) begin(t cgroups.Thing) (done func() error, err error) {
	if err := json.NewEncoder(j.file).Encode(t); err != nil {
		return nil, fmt.Errorf("write the journal: %w", err)
	}
	return func() error { return nil }, nil
}

// close ends the journal, once everything in it is undone.
func (j *journal) close() error {
	things, err := thingsIn(j.file)
	if err == nil {
		err = undo(things)
	}
	if err == nil {
		err = os.Remove(j.file.Name())
	}
	os.Remove(filepath.Join(j.root, journalFolder)) // refused unless it is empty
	return errors.Join(err, j.file.Close())
}

// Clean undoes what doctors that were killed have left, and says what that was. Doctors that are at work are left alone.
func Clean(runRoot string) (undone []string, err error) {
	undone, err = cleanJournals(runRootOf(runRoot))
	folders, scratchErr := sweepAbove(StateRoot(""))
	return append(undone, folders...), errors.Join(err, scratchErr)
}

// cleanJournals undoes what is in the journals that nobody holds.
func cleanJournals(runRoot string) (undone []string, err error) {
	files, err := filepath.Glob(filepath.Join(runRoot, journalFolder, "*"))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	if _, err := ownFolder(runRoot); errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) {
		return nil, nil // its last user has just left
	} else if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("open a journal: %w", err))
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && linked(f) {
			things, err := thingsIn(f)
			if err == nil {
				err = undo(things)
			}
			if err == nil {
				err = os.Remove(name)
				for _, t := range things {
					undone = append(undone, thingText(t))
				}
			}
			errs = append(errs, err)
		}
		errs = append(errs, f.Close())
	}
	os.Remove(filepath.Join(runRoot, journalFolder)) // refused unless it is empty
	return undone, errors.Join(errs...)
}

// thingsIn reads a journal. A last line that was cut off announced something that was never made.
func thingsIn(f *os.File) (things []cgroups.Thing, err error) {
	if _, err := f.Seek(0, 0); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		var t cgroups.Thing
		if json.Unmarshal(s.Bytes(), &t) == nil {
			things = append(things, t)
		}
	}
	return things, nil
}

// undo removes things, newest first; what is not there is no error.
func undo(things []cgroups.Thing) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var errs []error
	for _, t := range slices.Backward(things) {
		errs = append(errs, cgroups.Undo(ctx, t))
	}
	return errors.Join(errs...)
}
