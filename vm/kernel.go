package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel is one that can be booted.
type kernel struct {
	release string // as uname -r says it
	image   string // the file
	modules string // the folder lib/modules/RELEASE
	noV1    bool   // its control groups v1 have no memory controller
}

// debianKernel names the kernel that comes with the distribution.
const debianKernel = "debian"

// kernelNames spells out "all": what apt offers of Debian's cloud kernels, one of each version.
func kernelNames(ctx context.Context, names []string) ([]string, error) {
	if !slices.Contains(names, "all") {
		return names, nil
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "pkgnames", "linux-image-").Output()
	if err != nil {
		return nil, &hinted{fmt.Errorf("apt-cache pkgnames: %w", err), "--kernel with a folder works without apt"}
	}
	if names = newestPackages(string(out)); len(names) == 0 {
		return nil, &hinted{errors.New("apt offers no cloud kernel"), "apt-get update"}
	}
	return names, nil
}

// newestPackages picks the packages that stand for the newest kernel of a version: linux-image-cloud-amd64 for Debian's
// own, linux-image-6.12-cloud-amd64 for another.
func newestPackages(list string) (names []string) {
	meta := regexp.MustCompile(`^linux-image-(\d+\.\d+-)?cloud-` + runtime.GOARCH + `$`)
	for name := range strings.FieldsSeq(list) {
		if meta.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	slices.Reverse(names) // Debian's own, whose name has no digit, first
	return names
}

// findKernel finds the kernel that a name stands for: a folder, a package, or a version of Debian's cloud kernels, which
// are small and have what a virtual machine needs.
func findKernel(ctx context.Context, cache, name string) (*kernel, error) {
	if strings.Contains(name, "/") || name == "." {
		return kernelIn(name)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, &hinted{errors.New("apt-get, which fetches a kernel, is not here"), "--kernel FOLDER, with boot/vmlinuz-* and lib/modules in it"}
	}
	release, err := alone(cache)
	if err != nil {
		return nil, err
	}
	defer release()
	k, err := fromApt(ctx, cache, packageFor(name))
	if err == nil || os.Geteuid() != 0 || ctx.Err() != nil {
		return k, err
	}
	// The lists may be missing, as in a new container, or name a kernel that has been replaced since.
	if update := runQuietly(exec.CommandContext(ctx, "apt-get", "-q", "update")); update != nil {
		return nil, errors.Join(err, update)
	}
	return fromApt(ctx, cache, packageFor(name))
}

// alone waits until nobody else fetches kernels into this cache, so that several of us can be started at once.
func alone(cache string) (release func() error, err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.Open(cache)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", cache, err), lock.Close())
	}
	return lock.Close, nil
}

// fromApt finds the kernel of a package in the cache, or fetches it.
func fromApt(ctx context.Context, cache, wanted string) (*kernel, error) {
	actual, err := realPackage(ctx, wanted)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "kernel", actual)
	if k, err := kernelIn(dir); err == nil {
		return k, nil
	}
	if err := fetch(ctx, actual, dir); err != nil {
		return nil, err
	}
	return kernelIn(dir)
}

// packageFor spells out a version.
func packageFor(name string) string {
	switch {
	case name == debianKernel:
		return "linux-image-cloud-" + runtime.GOARCH
	case strings.HasPrefix(name, "linux-image-"):
		return name
	}
	return "linux-image-" + name + "-cloud-" + runtime.GOARCH
}

// realPackage follows a package without content, which only depends on the newest kernel of its kind, to that.
func realPackage(ctx context.Context, name string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "--important", name).Output()
	if err != nil || len(out) == 0 {
		return "", &hinted{fmt.Errorf("apt knows no package %s", name), "apt-get update, then apt-cache search linux-image"}
	}
	return dependedOn(string(out), name), nil
}

// dependedOn reads what apt-cache depends says.
func dependedOn(out, name string) string {
	for line := range strings.Lines(out) {
		dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && strings.HasPrefix(dep, "linux-image-") {
			return dep
		}
	}
	return name
}

// fetch unpacks a package into dir, which appears when it is complete.
func fetch(ctx context.Context, name, dir string) (err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".fetch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	fmt.Printf("vm: fetching %s\n", name)
	// apt checks the package against its signed lists. Its own user may not enter our folder, hence root's.
	get := exec.CommandContext(ctx, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name)
	get.Dir = work
	if err := runQuietly(get); err != nil {
		return &hinted{err, "apt-get update: the lists may be older than the package"}
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("fetch %s: %d packages came", name, len(debs))
	}
	tree := filepath.Join(work, "tree")
	if err := runQuietly(exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], tree)); err != nil {
		return err
	}
	if _, err := kernelIn(tree); err != nil {
		return err
	}
	return os.Rename(tree, dir)
}

// runQuietly runs a command, whose output is worth reading only if it fails.
func runQuietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// kernelIn finds the kernel in a folder that a package was unpacked to; the newest, if there are several.
func kernelIn(dir string) (*kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return nil, &hinted{fmt.Errorf("no boot/vmlinuz-* in %s", dir), "an unpacked kernel package: dpkg-deb -x PACKAGE.deb FOLDER"}
	}
	k := &kernel{image: images[len(images)-1]}
	k.release = strings.TrimPrefix(filepath.Base(k.image), "vmlinuz-")
	// Since 6.11 a kernel can be built without, and Debian's are. Without its settings nothing is known: the machine will tell.
	settings, _ := os.ReadFile(filepath.Join(dir, "boot", "config-"+k.release))
	k.noV1 = strings.Contains(string(settings), "\n# CONFIG_MEMCG_V1 is not set\n")
	for _, lib := range []string{"lib", "usr/lib"} {
		k.modules = filepath.Join(dir, lib, "modules", k.release)
		if _, err := os.Stat(filepath.Join(k.modules, "modules.builtin")); err == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%s has no modules for %s", dir, k.release)
}
