package unionfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// compareSides compares the trees file by file.
func compareSides(t *testing.T, sides []*side, when string) bool {
	t.Helper()
	for _, s := range sides[1:] {
		want := snapshotOf(t, sides[0].root, s.loose)
		got := snapshotOf(t, s.root, s.loose)
		if slices.Equal(got, want) {
			continue
		}
		t.Errorf("%s, %s differs from %s:\n%s", when, s.name, sides[0].name, differenceOf(want, got))
		return false
	}
	return true
}

func differenceOf(want, got []string) string {
	var b strings.Builder
	for _, line := range want {
		if !slices.Contains(got, line) {
			fmt.Fprintln(&b, "-", cut(line))
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			fmt.Fprintln(&b, "+", cut(line))
		}
	}
	return b.String()
}

func cut(line string) string { return line[:min(len(line), 300)] }

// snapshotOf is a tree as lines: everything that can be seen of each file, but what must differ.
func snapshotOf(t *testing.T, root string, loose bool) []string {
	t.Helper()
	var lines []string
	linked := map[uint64][]string{}
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		line, ino, err := lineOf(path, loose)
		if err != nil {
			return err
		}
		lines = append(lines, name+" "+line)
		if ino != 0 {
			linked[ino] = append(linked[ino], name)
		}
		return nil
	}))
	for _, names := range linked {
		sort.Strings(names)
		lines = append(lines, fmt.Sprint("one file: ", names))
	}
	sort.Strings(lines)
	return lines
}

func lineOf(path string, loose bool) (line string, linked uint64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", 0, err
	}
	line = fmt.Sprintf("mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
	if st.Mtim.Sec < recent.Unix() && !(loose && st.Mode&unix.S_IFMT == unix.S_IFDIR) {
		line += fmt.Sprintf(" mtime %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		line += fmt.Sprintf(" links %d size %d", st.Nlink, st.Size)
		if st.Nlink > 1 {
			linked = st.Ino
		}
	}
	line += xattrsOf(path)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", 0, err
		}
		line += " " + string(data)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", 0, err
		}
		line += " → " + target
	}
	return line, linked, nil
}

func xattrsOf(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return ""
	}
	var list []string
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		list = append(list, fmt.Sprint(name, "=", string(value[:max(n, 0)]), err))
	}
	sort.Strings(list)
	return fmt.Sprint(" ", list)
}

// walkNames lists what is in a tree.
func walkNames(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _ := filepath.Rel(root, path); name != "." {
			names = append(names, name)
		}
		return nil
	}))
	return names
}

// copyTree copies as cp -a does.
func copyTree(from, to string) error {
	out, err := exec.Command("cp", "-a", "-T", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp -a %s %s: %w: %s", from, to, err, out)
	}
	return nil
}

// moveByCopy is what mv(1) does on EXDEV, with an empty folder in the way.
func moveByCopy(from, to string) error {
	if err := os.Remove(to); errors.Is(err, unix.ENOTEMPTY) {
		return nil // mv says so and leaves both
	} else if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := copyTree(from, to); err != nil {
		return err
	}
	return os.RemoveAll(from)
}
