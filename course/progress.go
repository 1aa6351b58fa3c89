package course

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Progress is which steps the learner has passed, and when: $XDG_STATE_HOME/nslab/progress.json (see the XDG base
// directory specification), of the user who called sudo where that is how nslab became root.
type Progress struct {
	Version int                             `json:"version"`
	Labs    map[string]map[string]time.Time `json:"labs"` // lab → step → when it last passed
}

const progressVersion = 1

// LoadProgress reads the progress; none yet is an empty one.
func LoadProgress() (Progress, error) {
	var p Progress
	err := asLearner(func(path string) (err error) {
		p, err = readProgress(path)
		return err
	})
	return p, err
}

func readProgress(path string) (Progress, error) {
	p := Progress{Version: progressVersion, Labs: map[string]map[string]time.Time{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the progress: %w", err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("read the progress: %s: %w", path, err)
	}
	if p.Version != progressVersion || p.Labs == nil {
		return p, fmt.Errorf("read the progress: %s: version %d is not known to this nslab", path, p.Version)
	}
	return p, nil
}

// Passed counts the lab's steps that have passed.
func (p Progress) Passed(l *Lab) (n int) {
	for _, s := range l.Steps {
		if _, ok := p.Labs[l.Name()][s.ID]; ok {
			n++
		}
	}
	return n
}

// saveProgress adds passed steps. A file that cannot be read is left as it is: it may be all that somebody has.
func saveProgress(l *Lab, steps []string) error {
	if len(steps) == 0 {
		return nil
	}
	return asLearner(func(path string) error {
		dir := filepath.Dir(path)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the state folder: %w", err)
		}
		lock, err := os.Open(dir) // two labs may end at once
		if err != nil {
			return fmt.Errorf("open the state folder: %w", err)
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			return fmt.Errorf("lock the state folder: %w", err)
		}
		p, err := readProgress(path)
		if err != nil {
			return err
		}
		if p.Labs[l.Name()] == nil {
			p.Labs[l.Name()] = map[string]time.Time{}
		}
		for _, s := range steps {
			p.Labs[l.Name()][s] = time.Now().UTC().Truncate(time.Second)
		}
		data, err := json.MarshalIndent(p, "", "  ")
		if err != nil {
			return fmt.Errorf("encode the progress: %w", err)
		}
		return replaceFile(path, append(data, '\n'))
	})
}

// replaceFile writes aside, syncs and renames, so that a reader finds the old or the new whole file.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".progress-*")
	if err != nil {
		return fmt.Errorf("write the progress: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write the progress: %w", err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// asLearner calls f with the path of the progress file and, under sudo, with the file-system rights of the user who
// called it: root must not follow a link that this user has put there. The rights are the thread's, see setfsuid(2).
func asLearner(f func(path string) error) error {
	state := os.Getenv("XDG_STATE_HOME")
	uid, gid, home, err := learner()
	if err != nil {
		return err
	}
	if state == "" {
		state = filepath.Join(home, ".local", "state")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if uid != os.Geteuid() {
		unix.SetfsgidRetGid(gid)
		unix.SetfsuidRetUid(uid) // last: it drops the capability to change the group
		defer func() {
			unix.SetfsuidRetUid(os.Geteuid())
			unix.SetfsgidRetGid(os.Getegid())
		}()
		if now, _ := unix.SetfsuidRetUid(-1); now != uid { // -1 changes nothing and tells what is
			return fmt.Errorf("take the rights of uid %d: still uid %d", uid, now)
		}
	}
	return f(filepath.Join(state, "nslab", "progress.json"))
}

// learner is who sits at the terminal: the user behind sudo, else our own.
func learner() (uid, gid int, home string, err error) {
	uid, gid = os.Geteuid(), os.Getegid()
	if name := os.Getenv("SUDO_UID"); uid == 0 && name != "" && name != "0" {
		u, err := user.LookupId(name)
		if err != nil {
			return 0, 0, "", fmt.Errorf("look up the user of sudo: %w", err)
		}
		uid, err = strconv.Atoi(u.Uid)
		if err != nil {
			return 0, 0, "", fmt.Errorf("uid of %s: %w", u.Username, err)
		}
		gid, err = strconv.Atoi(u.Gid)
		return uid, gid, u.HomeDir, err
	}
	home, err = os.UserHomeDir()
	if err != nil && os.Getenv("XDG_STATE_HOME") == "" {
		return 0, 0, "", fmt.Errorf("find the home folder: %w", err)
	}
	return uid, gid, home, nil
}
