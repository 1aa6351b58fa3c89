// Package archive makes what the benchmarks unpack: a tar of about so many bytes, of many small files, as a root file
// system is. It is packed from folders of this machine, so that two machines do not measure the same bytes; a benchmark
// compares with a peer on the same archive.
package archive

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// Make packs folders of this machine into a new tar until they are about so many bytes. The flags are tar's, and
// come before the folders.
func Make(path string, size int64, flags ...string) error {
	folders, err := choose(size)
	if err != nil {
		return err
	}
	args := append([]string{"-C", "/", "-cf", path}, flags...)
	cmd := exec.Command("tar", append(args, folders...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	return nil
}

func choose(size int64) (folders []string, err error) {
	candidates, err := filepath.Glob("/usr/lib/python3*")
	if err != nil {
		return nil, err
	}
	candidates = append(candidates, "/usr/lib/git-core", "/usr/include", "/usr/share/zoneinfo", "/usr/share/perl", "/usr/share/doc",
		"/usr/share/man", "/usr/share/locale", "/usr/lib/gcc", "/usr/bin")
	var total int64
	for _, dir := range candidates {
		if total >= size {
			break
		}
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // what cannot be read is not packed either
			}
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				total += info.Size()
			}
			return nil
		})
		folders = append(folders, dir[1:])
	}
	return folders, nil
}
