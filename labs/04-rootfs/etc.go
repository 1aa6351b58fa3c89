package rootfs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Etc is what a runtime writes into a container's /etc, since no image can know it.
type Etc struct {
	Hostname string
	Hosts    []HostEntry  // besides localhost
	Servers  []netip.Addr // name servers
	Search   []string     // domains
	Options  []string     // of the resolver: "ndots:2"
	Bare     bool         // nothing but these: not the passwd, group and nsswitch.conf of an image that has none
}

// HostEntry is a line of /etc/hosts.
type HostEntry struct {
	Address netip.Addr
	Names   []string
}

// etcFile is a file below /etc.
type etcFile struct {
	name, text string
	always     bool // replaces what the image has
}

// WriteEtc writes /etc/hosts and, where they are given, /etc/hostname and resolv.conf; and where the image has none, passwd, group and nsswitch.conf
// with root and nobody in them.
//
// In many images /etc/resolv.conf is a link to /run/systemd/…: writing "to" it would write wherever it leads. So each
// file is made under another name and renamed over what is there: rename(2) replaces a link and never follows it, and
// nobody reads half a file.
func WriteEtc(ctx context.Context, t *Tree, e Etc) (err error) {
	files, err := e.files()
	if err != nil {
		return err
	}
	made, err := t.MkdirAll(ctx, "/etc", 0o755)
	if err != nil {
		return err
	}
	made.Close()
	// A link may lead elsewhere in the image, but not into something that is mounted there: a volume is the host's.
	dir, err := t.open(ctx, 0, "/etc", unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: inside | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	for _, f := range files {
		var st unix.Stat_t
		if !f.always && unix.Fstatat(int(dir.Fd()), f.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			continue
		}
		if err := replaceAt(ctx, dir, f.name, f.text); err != nil {
			return err
		}
	}
	return nil
}

func replaceAt(ctx context.Context, dir *os.File, name, text string) error {
	at, temporary := int(dir.Fd()), ".nslab-"+name
	fail := func(err error) error {
		if err == nil {
			return nil
		}
		return &Error{Op: "write", Path: name, In: dir.Name(), Err: err}
	}
	// What an earlier run left half done. Anything else of this name is not removed, and O_EXCL refuses it.
	if err := unix.Unlinkat(at, temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fail(err)
	}
	fd, err := unix.Openat(at, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), path.Join(dir.Name(), temporary))
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = trace.Call(ctx, 1,
			func() string {
				return fmt.Sprintf("renameat(%d, %q, %d, %q), with %d bytes", at, temporary, at, name, len(text))
			},
			func() error { return unix.Renameat(at, temporary, at, name) })
	}
	if err != nil {
		return errors.Join(fail(err), unix.Unlinkat(at, temporary, 0))
	}
	return nil
}

// Resolver is the text of resolv.conf.
func (e Etc) Resolver() (string, error) { return e.resolver(), e.check() }

func (e Etc) resolver() string {
	var text strings.Builder
	for _, s := range e.Servers {
		fmt.Fprintf(&text, "nameserver %s\n", s)
	}
	if len(e.Search) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(e.Search, " "))
	}
	if len(e.Options) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(e.Options, " "))
	}
	return text.String()
}

// check refuses what would add lines of its own: a host name with a newline in it is an entry in /etc/hosts that nobody asked
// for.
func (e Etc) check() error {
	words := append(append([]string{}, e.Search...), e.Options...)
	for _, h := range e.Hosts {
		words = append(words, h.Names...)
	}
	for _, w := range append(words, e.Hostname) {
		if strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }) {
			return fmt.Errorf("04-rootfs: name %q for /etc: %w", w, unix.EINVAL)
		}
	}
	return nil
}

// files renders everything.
func (e Etc) files() ([]etcFile, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n" +
		"ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n") // as Docker has it
	for _, h := range e.Hosts {
		fmt.Fprintf(&hosts, "%s\t%s\n", h.Address.WithZone(""), strings.Join(h.Names, " "))
	}
	files := []etcFile{{"hosts", hosts.String(), true}}
	if e.Hostname != "" {
		files = append(files, etcFile{"hostname", e.Hostname + "\n", true})
	}
	if resolv := e.resolver(); resolv != "" { // a container without a network keeps what its image says
		files = append(files, etcFile{"resolv.conf", resolv, true})
	}
	if e.Bare {
		return files, nil
	}
	return append(files, []etcFile{
		{"passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", false},
		{"group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n", false},
		{"nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", false},
	}...), nil
}
