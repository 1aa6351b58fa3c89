package course

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// environment is what one run of labs has, shared by all its steps.
type environment struct {
	id         string   // names the run: "3f9c02-k7"
	dir        string   // its folder below the run root
	userns     bool     // root only inside a user namespace
	hostMounts *os.File // the host's /proc/self/mountinfo, opened before the sacrifice left the host's mount namespace
	journal    *journal
	labs       []*Lab // the whole course
}

// translator returns what finds the Chinese of fixed texts: the lab's own, or another's whose stage it calls.
func (e *environment) translator(l *Lab, zh bool) func(string) string {
	return func(s string) string {
		if !zh {
			return s
		}
		for _, l := range append([]*Lab{l}, e.labs...) {
			if l.Zh == nil {
				continue
			}
			if text, ok := l.Zh()[s]; ok {
				return text
			}
		}
		return s
	}
}

// readAgain reads a file of procfs from its start. An open mountinfo keeps showing the mount namespace it was opened in,
// as it is at the time of reading, even to a process that may not open it any more.
func readAgain(f *os.File) ([]byte, error) {
	var all bytes.Buffer
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	// Not through os.File's own reads: the descriptor is shared with the guard, and its offset with it.
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(int(f.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return all.Bytes(), nil
		}
		all.Write(buf[:n])
	}
}
