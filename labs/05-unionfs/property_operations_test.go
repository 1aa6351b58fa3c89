package unionfs

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// randomOperation makes one up, mostly about files that are there.
func randomOperation(r *rand.Rand, paths []string) operation {
	pick := func() string {
		if len(paths) > 0 && r.Intn(10) < 7 {
			return paths[r.Intn(len(paths))]
		}
		return randomPath(r)
	}
	p, q := pick(), pick()
	n, m := r.Intn(9000), r.Intn(1000)
	data := bytes.Repeat([]byte{byte('A' + r.Intn(26))}, n)
	slot := r.Intn(8)
	simple := func(text string, f func(path string) error) operation {
		return operation{text, func(s *side) (string, error) { return "", f(filepath.Join(s.root, p)) }}
	}
	two := func(text string, f func(a, b string) error) operation {
		return operation{fmt.Sprintf("%s %s %s", text, p, q), func(s *side) (string, error) {
			return "", f(filepath.Join(s.root, p), filepath.Join(s.root, q))
		}}
	}
	write := func(text string, flags int) operation {
		return simple(fmt.Sprintf("%s %s %d", text, p, n), func(path string) error { return writeWith(path, flags, data) })
	}
	switch r.Intn(26) {
	case 0, 1, 2:
		return write("create", unix.O_CREAT|unix.O_EXCL)
	case 3, 4:
		return write("write", unix.O_CREAT|unix.O_TRUNC)
	case 5:
		return write("overwrite", 0)
	case 6:
		return write("append", unix.O_APPEND)
	case 7:
		return simple(fmt.Sprintf("truncate %s %d", p, n), func(path string) error {
			if !isFile(path) {
				return unix.EINVAL // through a link it may be any file, even a fifo, which blocks
			}
			return unix.Truncate(path, int64(n))
		})
	case 8, 9:
		return simple("mkdir "+p, func(path string) error { return unix.Mkdir(path, uint32(0o700|m&0o77)) })
	case 10:
		return simple("rmdir "+p, unix.Rmdir)
	case 11, 12:
		return simple("unlink "+p, func(path string) error { return unlinkFile(path) })
	case 13, 14, 15:
		return two("rename", func(a, b string) error { return unix.Rename(a, b) })
	case 16:
		return two("link", unix.Link)
	case 17:
		return simple("symlink "+p, func(path string) error { return unix.Symlink("to/"+q, path) })
	case 18:
		return simple(fmt.Sprintf("chmod %s %o", p, m), func(path string) error {
			if isLink(path) {
				return unix.ELOOP
			}
			return unix.Chmod(path, uint32(0o400|m))
		})
	case 19:
		return simple(fmt.Sprintf("chown %s %d", p, m), func(path string) error { return unix.Lchown(path, m, m+1) })
	case 20:
		return simple(fmt.Sprintf("utimens %s %d", p, m), func(path string) error {
			ts := unix.NsecToTimespec(old.Add(time.Duration(m) * time.Second).UnixNano())
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		})
	case 21:
		return simple("setxattr "+p, func(path string) error {
			return unix.Lsetxattr(path, fmt.Sprintf("user.x%d", m%3), data[:min(n, 100)], 0)
		})
	case 22:
		return operation{"read " + p, func(s *side) (string, error) { return readFile(filepath.Join(s.root, p)) }}
	case 23:
		return keepOpen(slot, p, n%2 == 0)
	case 24:
		return keepWrite(slot, data, int64(m))
	}
	if m%2 == 0 {
		return keepRead(slot)
	}
	flags := []uint{unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[m/2%2]
	return operation{fmt.Sprintf("renameat2 %s %s %d", p, q, flags), func(s *side) (string, error) {
		a, b := filepath.Join(s.root, p), filepath.Join(s.root, q)
		if isDir(a) || flags == unix.RENAME_EXCHANGE && isDir(b) {
			return "", unix.EINVAL // folders are for rename: EXDEV has no answer here
		}
		return "", unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags)
	}}
}

func lmode(path string) uint32 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

func isFile(path string) bool { return lmode(path) == unix.S_IFREG }
func isDir(path string) bool  { return lmode(path) == unix.S_IFDIR }
func isLink(path string) bool { return lmode(path) == unix.S_IFLNK }

func unlinkFile(path string) error { return unix.Unlink(path) }

func writeWith(path string, flags int, data []byte) error {
	if k := lmode(path); k != 0 && k != unix.S_IFREG {
		return unix.EINVAL // a fifo would block, a link lead anywhere
	}
	fd, err := unix.Open(path, flags|unix.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return writeAllAt(fd, data)
}

func writeAllAt(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func readFile(path string) (string, error) {
	if !isFile(path) {
		return "", unix.EINVAL
	}
	data, err := os.ReadFile(path)
	return string(data), err
}

// keepOpen, keepWrite and keepRead use a descriptor across other operations: across copy-up, rename, and unlink.
func keepOpen(slot int, path string, write bool) operation {
	return operation{fmt.Sprintf("keep open %d %s %v", slot, path, write), func(s *side) (string, error) {
		if f := s.kept[slot]; f != nil {
			f.Close()
			delete(s.kept, slot)
		}
		name := filepath.Join(s.root, path)
		if !isFile(name) {
			return "", unix.EINVAL
		}
		flags := os.O_RDONLY
		if write {
			flags = os.O_RDWR
		}
		f, err := os.OpenFile(name, flags, 0)
		if err == nil {
			s.kept[slot] = f
		}
		return "", err
	}}
}

func keepWrite(slot int, data []byte, at int64) operation {
	return operation{fmt.Sprintf("keep write %d %d", slot, len(data)), func(s *side) (string, error) {
		if s.kept[slot] == nil {
			return "", nil
		}
		_, err := s.kept[slot].WriteAt(data, at)
		return "", err
	}}
}

func keepRead(slot int) operation {
	return operation{fmt.Sprintf("keep read %d", slot), func(s *side) (string, error) {
		f := s.kept[slot]
		if f == nil {
			return "", nil
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return "", err
		}
		buf := make([]byte, st.Size)
		_, err := f.ReadAt(buf, 0)
		return fmt.Sprint(st.Mode, st.Uid, " ", st.Nlink, " ") + string(buf), err
	}}
}
