package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// BootstrapOptions are for [Store.Bootstrap].
type BootstrapOptions struct {
	Names    []string
	Programs []string    // by name or path; none: busybox, or else what a shell's user expects
	Host     rootfs.Host // zero: this machine
	Created  time.Time   // zero: now
}

// usual are the programs that somebody with a shell expects. Those that the host does not have are left out.
const usual = `bash sh ls cat cp mv rm mkdir rmdir ln chmod chown touch head tail wc sort uniq cut tr tee echo printf true false
sleep env id whoami hostname uname date df du find grep sed awk xargs ps top free kill pgrep pkill ip ss ping mount umount lsns
stat readlink realpath basename dirname seq test [ expr dd od sha256sum md5sum tar gzip vi less more clear reset stty tty nproc
yes timeout nice mknod mkfifo mktemp getent setpriv unshare nsenter tput which watch`

// files are not programs, and no program names them: terminals, names, and what the host is called.
const files = `/etc/os-release /etc/protocols /etc/services /usr/lib/locale/C.utf8
/lib/terminfo/a/ansi /lib/terminfo/d/dumb /lib/terminfo/l/linux /lib/terminfo/s/screen /lib/terminfo/s/screen-256color
/lib/terminfo/t/tmux /lib/terminfo/t/tmux-256color /lib/terminfo/v/vt100 /lib/terminfo/x/xterm /lib/terminfo/x/xterm-256color
/usr/share/terminfo/l/linux /usr/share/terminfo/s/screen-256color /usr/share/terminfo/t/tmux-256color
/usr/share/terminfo/v/vt100 /usr/share/terminfo/x/xterm /usr/share/terminfo/x/xterm-256color`

// searchPath is what images have for PATH.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Bootstrap makes an image of the host's own programs, with everything that they need to start: an image without a
// registry, a network, or anybody else's files. See lab 04.
func (s *Store) Bootstrap(ctx context.Context, o BootstrapOptions) (*Image, error) {
	if o.Host.Root == "" {
		o.Host = rootfs.ThisHost()
	}
	if o.Created.IsZero() {
		o.Created = time.Now()
	}
	plan, programs, err := bootstrapPlan(ctx, o.Host, o.Programs)
	if err != nil {
		return nil, err
	}
	furnish(plan)
	plan.Time = o.Created
	command, dirs := "", searchPath
	for _, name := range []string{"bash", "sh"} {
		if command == "" && hasProgram(plan, name) {
			command = name
		}
	}
	for _, p := range programs {
		if strings.Contains(p, "/") && command == "" {
			command = p
		}
		if real, err := o.Host.LookPath(p); err == nil && !slices.Contains(strings.Split(dirs, ":"), path.Dir(real)) {
			dirs += ":" + path.Dir(real)
		}
	}
	if command == "" {
		command = programs[0]
	}
	return s.Commit(ctx, nil, func(w io.Writer) error { return plan.Pack(ctx, w) }, CommitOptions{
		Names: o.Names, Created: o.Created, Config: &ocispec.ImageConfig{Env: []string{"PATH=" + dirs}, Cmd: []string{command}},
		CreatedBy: strings.TrimSpace("nslab image bootstrap " + strings.Join(o.Programs, " ")), Message: "the host's own programs",
	})
}

// bootstrapPlan plans the programs that were asked for, all of them; or without any the usual ones, as far as they are
// there and can be run.
func bootstrapPlan(ctx context.Context, h rootfs.Host, programs []string) (*rootfs.Plan, []string, error) {
	if len(programs) == 0 {
		programs = []string{"busybox"}
		if _, err := h.LookPath("busybox"); err != nil {
			programs = strings.Fields(usual)
		}
		programs = slices.DeleteFunc(programs, func(name string) bool {
			_, err := h.Plan(ctx, rootfs.Wanted{Programs: []string{name}})
			return err != nil
		})
		if len(programs) == 0 {
			return nil, nil, errors.New("find programs for an image: this machine has no busybox, and no bash or sh")
		}
	}
	w := rootfs.Wanted{Programs: programs}
	for _, name := range strings.Fields(files) {
		if _, err := h.LookPath(name); err == nil {
			if _, err := os.Stat(path.Join(h.Root, name)); err == nil {
				w.Files = append(w.Files, name)
			}
		}
	}
	plan, err := h.Plan(ctx, w)
	return plan, programs, err
}

// furnish adds what a root file system has besides programs.
func furnish(plan *rootfs.Plan) {
	dir := func(name string, mode fs.FileMode) {
		plan.Add(rootfs.Entry{Path: name, Mode: fs.ModeDir | mode, Why: rootfs.Reason{What: rootfs.Layout, Of: "a root"}})
	}
	file := func(name, text string) {
		plan.Add(rootfs.Entry{Path: name, Mode: 0o644, Made: []byte(text), Why: rootfs.Reason{What: rootfs.Layout, Of: "a root"}})
	}
	dir("/tmp", 0o777|fs.ModeSticky)
	dir("/var", 0o755)
	dir("/var/tmp", 0o777|fs.ModeSticky)
	dir("/root", 0o700)
	for _, name := range []string{"/dev", "/etc", "/home", "/mnt", "/opt", "/proc", "/run", "/srv", "/sys", "/usr/local/bin", "/var/log"} {
		dir(name, 0o755)
	}
	file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	file("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
	file("/etc/shells", "/bin/sh\n/bin/bash\n")
	file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
	// Scripts ask for /bin/sh. bash is one, and busybox has its names beside itself.
	bin, ok := plan.At("/bin")
	if _, has := plan.At("/bin/sh"); has || ok && !bin.Mode.IsDir() && hasProgram(plan, "sh") {
		return
	}
	for _, target := range []string{"/usr/bin/sh", "/usr/bin/bash", "/bin/bash"} {
		if _, has := plan.At(target); !has {
			continue
		}
		link := "/bin/sh"
		if ok && !bin.Mode.IsDir() { // /bin is a link: what is in it stands where that leads
			link = path.Join("/", bin.Target, "sh")
		}
		plan.Add(rootfs.Entry{Path: link, Mode: fs.ModeSymlink | 0o777, Target: target})
		return
	}
}

// hasProgram tells whether a plan has a program where shells look for it.
func hasProgram(plan *rootfs.Plan, name string) bool {
	for dir := range strings.SplitSeq(searchPath, ":") {
		if _, ok := plan.At(path.Join(dir, name)); ok {
			return true
		}
	}
	return false
}
