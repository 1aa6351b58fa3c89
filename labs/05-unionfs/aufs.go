package unionfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	mount "github.com/nslab/nslab/labs/02-mount"
)

// aufs was never in Linus's tree. Debian shipped it until 2019 and Ubuntu until 2022, and Docker's first years ran on it;
// who has a kernel with it has it in /proc/filesystems or can load it. What it brought stayed: its whiteouts are those of
// every image layer today.

// HasAufs tells whether the kernel has aufs. /proc/filesystems lists only what is loaded; a mount of an unknown type
// makes the kernel load the module, so it is tried with options that no aufs accepts.
func HasAufs(ctx context.Context) bool {
	if listed("aufs") {
		return true
	}
	mount.Syscall(ctx, "none", "/", "aufs", 0, "nslab-no-such-option") // its refusal is what is wanted
	return listed("aufs")
}

// listed looks a file system up in /proc/filesystems.
func listed(fstype string) bool {
	data, err := os.ReadFile("/proc/filesystems")
	return err == nil && slices.Contains(strings.Fields(string(data)), fstype)
}

// aufsData is aufs's option string: "br=/upper=rw:/lower=ro+wh". "dirs=" means the same.
func aufsData(list []Branch) (string, error) {
	names := make([]string, len(list))
	for i, b := range list {
		if strings.ContainsAny(b.Path, ":=,") {
			return "", fmt.Errorf("branch %q: %w", b.Path, ErrBranchName) // aufs knows no quoting
		}
		names[i] = fmt.Sprintf("%s=%s", b.Path, b.Mode)
	}
	return "br=" + strings.Join(names, ":"), nil
}

func mountAufs(ctx context.Context, list []Branch, target string) (*Union, error) {
	data, err := aufsData(list)
	if err == nil {
		err = mount.Syscall(ctx, "none", target, "aufs", 0, data)
	}
	if err != nil {
		return nil, &Error{Op: "mount", Driver: Aufs, Layers: layersOf(list), Target: target, Err: err}
	}
	u := &Union{Driver: Aufs, Target: target}
	if u.ID, err = aufsID(target); err != nil {
		return nil, fmt.Errorf("05-unionfs: find aufs on %s: %w", target, err)
	}
	return u, nil
}

// aufsID finds "si_972c6d361e6b32ba" in the options that the mount table shows.
func aufsID(target string) (string, error) {
	table, err := mount.Current()
	if err != nil {
		return "", err
	}
	m, _ := table.At(target)
	for _, option := range strings.Split(m.SuperOptions, ",") {
		if id, ok := strings.CutPrefix(option, "si="); ok {
			return "si_" + id, nil
		}
	}
	return "", nil // the option "nosi", or a build without sysfs
}

var branchFile = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^br([0-9]+)$`) })

// readListing reads a folder in the form of /sys/fs/aufs/si_ID: a file "brN" for each branch, "/folder=rw".
func readListing(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	byIndex := map[int]string{}
	for _, e := range entries {
		m := branchFile().FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		index, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		byIndex[index] = strings.TrimSpace(string(text))
	}
	list := make([]string, 0, len(byIndex))
	for i := range len(byIndex) {
		list = append(list, byIndex[i])
	}
	return list, nil
}

// layersOf is a list of branches as layers, for an error to tell of.
func layersOf(list []Branch) Layers {
	var l Layers
	for _, b := range list {
		if b.Mode == RW && l.Upper == "" {
			l.Upper = b.Path
		} else {
			l.Lower = append(l.Lower, b.Path)
		}
	}
	return l
}

// Branches reads back which branches an aufs has, topmost first: the kernel lists its own in /sys/fs/aufs/si_ID.
func (u *Union) Branches() ([]Branch, error) {
	if u.Driver == AufsFUSE {
		return Listing(u)
	}
	names, err := readListing(filepath.Join("/sys/fs/aufs", u.ID))
	if err != nil {
		return nil, fmt.Errorf("05-unionfs: list the branches of %s: %w", u.Target, err)
	}
	list := make([]Branch, len(names))
	for i, name := range names {
		path, mode, _ := strings.Cut(name, "=")
		list[i] = Branch{Path: path, Mode: Mode(mode)}
	}
	return list, nil
}
