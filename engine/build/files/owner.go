package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	dmode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// owner is what --chown says. Names are the image's: "app" is whoever its /etc/passwd says.
type owner struct {
	user, group string // as written; both empty: none given
	given       bool
}

func parseOwner(text string) (owner, error) {
	if text == "" {
		return owner{}, nil
	}
	o := owner{given: true}
	o.user, o.group, _ = strings.Cut(text, ":")
	if strings.Contains(o.group, ":") || o.user == "" || strings.HasSuffix(text, ":") {
		return owner{}, refuse("it is written USER or USER:GROUP, by names or numbers", "%s is not an owner", quoted(text))
	}
	for _, part := range []string{o.user, o.group} {
		if _, _, err := number(part); err != nil {
			return owner{}, refuse("", "%s is not an owner: %v", quoted(text), err)
		}
	}
	return o, nil
}

// number reads a user or group that is given as one. The highest 32-bit number means "leave it" to chown(2).
func number(text string) (n int, is bool, err error) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false, nil
	}
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil || v == 1<<32-1 {
		return 0, true, fmt.Errorf("%s is no user or group number", quoted(text))
	}
	return int(v), true, nil
}

// in looks the names up in the files of a root. It returns nil where no owner was given.
func (o owner) in(ctx context.Context, t *rootfs.Tree) (*[2]int, error) {
	if !o.given {
		return nil, nil
	}
	uid, is, _ := number(o.user)
	gid := uid
	if !is {
		passwd, err := readPlain(ctx, t, "/etc/passwd")
		if err != nil {
			return nil, err
		}
		all, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool { return u.Name == o.user })
		if err != nil || len(all) == 0 {
			return nil, refuse("a number needs no entry", "no user %s in the image's /etc/passwd", quoted(o.user))
		}
		uid, gid = all[0].Uid, all[0].Gid
	}
	if g, is, _ := number(o.group); is {
		gid = g
	} else if o.group != "" {
		group, err := readPlain(ctx, t, "/etc/group")
		if err != nil {
			return nil, err
		}
		all, err := user.ParseGroupFilter(bytes.NewReader(group), func(g user.Group) bool { return g.Name == o.group })
		if err != nil || len(all) == 0 {
			return nil, refuse("a number needs no entry", "no group %s in the image's /etc/group", quoted(o.group))
		}
		gid = all[0].Gid
	}
	if uid < 0 || gid < 0 {
		return nil, refuse("", "%d:%d in the image's /etc/passwd is no owner", uid, gid)
	}
	return &[2]int{uid, gid}, nil
}

// Owner finds who is meant by "user[:group]", names or numbers, in the files of a root. Without a group it is the user's, and of
// a mere number the group of the same number.
func Owner(ctx context.Context, t *rootfs.Tree, who string) (uid, gid int, err error) {
	o, err := parseOwner(who)
	if err != nil {
		return 0, 0, err
	}
	ids, err := o.in(ctx, t)
	if err != nil || ids == nil {
		return 0, 0, err
	}
	return ids[0], ids[1], nil
}

// maxPasswd bounds what is read of a file whose content, and length, is somebody else's.
const maxPasswd = 8 << 20

// readPlain reads a small file of an image. It may be anything: a FIFO, on which open(2) waits for ever without O_NONBLOCK,
// a device, a link to somewhere, or endless. One that is not there is empty.
func readPlain(ctx context.Context, t *rootfs.Tree, name string) ([]byte, error) {
	f, err := t.Open(ctx, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s of the image: %w", name, err)
	}
	if kind(&st) != unix.S_IFREG {
		return nil, fmt.Errorf("read %s of the image: %w", name, errIrregular)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPasswd))
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", name, err)
	}
	return data, nil
}

// mode is what --chmod says.
type mode struct {
	octal  *uint32
	symbol *dmode.Set
}

func parseMode(text string) (mode, error) {
	if text == "" {
		return mode{}, nil
	}
	hint := "it is written in octal, 0755, or with letters, u=rwX,go=rX"
	if n, err := strconv.ParseUint(text, 8, 32); err == nil {
		if n > 0o7777 {
			return mode{}, refuse(hint, "invalid chmod parameter: %s: it should be an octal number between 0 and 07777", quoted(text))
		}
		octal := uint32(n)
		return mode{octal: &octal}, nil
	}
	// Its own umask is not to count: the image is the same whoever builds it.
	set, err := dmode.ParseWithUmask(text, 0)
	if err != nil || strings.Trim(text, "0123456789") == "" {
		return mode{}, refuse(hint, "invalid chmod parameter: %s", quoted(text))
	}
	return mode{symbol: &set}, nil
}

// of is the mode, as in st_mode without the kind, that a file gets which has the given one.
func (m mode) of(st uint32) uint32 {
	switch {
	case m.octal != nil:
		return *m.octal
	case m.symbol != nil:
		return toUnix(m.symbol.Apply(toGo(st)))
	}
	return st & 0o7777
}

// folder is the mode of a folder that has to be made and that no source has.
func (m mode) folder() uint32 {
	if m.octal != nil {
		return *m.octal & 0o777
	}
	return 0o755
}

func toGo(st uint32) os.FileMode {
	m := os.FileMode(st & 0o777)
	for _, b := range modeBits {
		if st&b.unix == b.unix {
			m |= b.is
		}
	}
	if st&unix.S_IFMT == unix.S_IFDIR {
		m |= os.ModeDir
	}
	return m
}

func toUnix(m os.FileMode) uint32 {
	st := uint32(m.Perm())
	for _, b := range modeBits {
		if m&b.is != 0 {
			st |= b.unix
		}
	}
	return st
}

var modeBits = [...]struct {
	unix uint32
	is   os.FileMode
}{{unix.S_ISUID, os.ModeSetuid}, {unix.S_ISGID, os.ModeSetgid}, {unix.S_ISVTX, os.ModeSticky}}
