package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	"github.com/nslab/nslab/trace"
)

// Names of users are the image's: "app" is whoever its /etc/passwd says. The kernel knows only numbers.

// identity is who the program runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	asked    bool // for groups beyond those that the image's files give him
	home     string
}

// maxPasswd bounds what is read of a file whose content, and length, is somebody else's.
const maxPasswd = 8 << 20

// lookUp finds who is meant by "user[:group]", names or numbers, in the files of the tree. Groups are more to be a member of.
func lookUp(ctx context.Context, tree *rootfs.Tree, who string, groups []string) (identity, error) {
	passwd, err := readPlain(ctx, tree, "/etc/passwd")
	if err != nil {
		return identity{}, err
	}
	group, err := readPlain(ctx, tree, "/etc/group")
	if err != nil {
		return identity{}, err
	}
	u, err := user.GetExecUser(who, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return identity{}, &kindError{KindUser, err}
	}
	more, err := user.GetAdditionalGroups(groups, bytes.NewReader(group))
	if err != nil {
		return identity{}, &kindError{KindUser, err}
	}
	id := identity{uid: uint32(u.Uid), gid: uint32(u.Gid), asked: len(groups) > 0, home: u.Home}
	for _, g := range append(u.Sgids, more...) {
		id.groups = append(id.groups, uint32(g))
	}
	id.addPrimary()
	return id, nil
}

// addPrimary makes the primary group one of the others, too. Who could lay it down, by a set-group-id program, would get at
// files that deny this group what they allow everybody (CVE-2022-36109, CVE-2022-2989).
func (id *identity) addPrimary() {
	id.groups = append(id.groups, id.gid)
	slices.Sort(id.groups)
	id.groups = slices.Compact(id.groups)
}

// capabilities are those that count while the program is looked for and executed. Who is not root loses all but the ambient ones
// by execve(2), see capabilities(7); he loses them before it, or he could execute what he may not reach.
func (id identity) capabilities(c *specs.LinuxCapabilities) *specs.LinuxCapabilities {
	if c == nil || id.uid == 0 {
		return c
	}
	own := *c
	own.Effective, own.Permitted = c.Ambient, c.Ambient
	return &own
}

// readPlain reads a small file of the image. It may be anything: a FIFO, on which open(2) waits for ever without O_NONBLOCK
// (Docker and Podman hang there, even their rm -f), a device, a link to /proc/1/environ, or endless. One that is not there
// is empty.
func readPlain(ctx context.Context, tree *rootfs.Tree, name string) ([]byte, error) {
	f, err := tree.Open(trace.Off(ctx), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("12-container: stat %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("12-container: %s of the image is no regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPasswd))
	if err != nil {
		return nil, fmt.Errorf("12-container: read %s: %w", name, err)
	}
	return data, nil
}

// identityOf takes the numbers of the spec, with the home that the image has for them.
func identityOf(ctx context.Context, tree *rootfs.Tree, u specs.User) (identity, error) {
	id := identity{uid: u.UID, gid: u.GID, groups: slices.Clone(u.AdditionalGids), asked: len(u.AdditionalGids) > 0, home: "/"}
	id.addPrimary()
	passwd, err := readPlain(ctx, tree, "/etc/passwd")
	if err != nil {
		return id, nil // numbers need no names
	}
	found, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(x user.User) bool { return x.Uid == int(u.UID) })
	if err == nil && len(found) > 0 && found[0].Home != "" {
		id.home = found[0].Home
	}
	return id, nil
}

// withHome adds HOME to an environment that has none.
func withHome(env []string, home string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "HOME=") {
			return env
		}
	}
	return append(env, "HOME="+home)
}
