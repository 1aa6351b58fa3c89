package opts

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The words that mount(8) knows for a tmpfs.
var (
	tmpfsFlags = [...]string{
		"defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync",
		"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
		"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable",
	}
	tmpfsSettings = [...]string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}
)

// Tmpfs checks --tmpfs: PATH[:OPTIONS], with the options of mount(8), and returns "PATH=OPTIONS" for a [Map].
func Tmpfs(value string) (string, error) {
	target, options, has := strings.Cut(value, ":")
	if err := plain("path", value); err != nil {
		return "", err
	}
	if !path.IsAbs(target) {
		return "", fmt.Errorf("invalid mount path: %s mount path must be absolute", quoted(target))
	}
	if target = path.Clean(target); target == "/" {
		return "", errors.New("invalid specification: destination can't be '/'")
	}
	if strings.Contains(target, "=") {
		return "", fmt.Errorf("invalid mount path: %s has an equals sign", quoted(target))
	}
	for option := range strings.SplitSeq(options, ",") {
		if has && options != "" && !tmpfsOption(option) {
			return "", fmt.Errorf("invalid tmpfs option %q", option)
		}
	}
	return target + "=" + options, nil
}

func tmpfsOption(option string) bool {
	name, setting, has := strings.Cut(option, "=")
	if !has {
		return slices.Contains(tmpfsFlags[:], name)
	}
	if !slices.Contains(tmpfsSettings[:], name) || setting == "" {
		return false
	}
	var err error
	switch name {
	case "mode":
		_, err = strconv.ParseUint(setting, 8, 12)
	case "uid", "gid":
		_, err = strconv.ParseUint(setting, 10, 32)
	case "size", "nr_inodes", "nr_blocks": // as the kernel's memparse() reads them
		number := strings.TrimRight(setting, "kKmMgGtTpPeE")
		if name == "size" {
			number = strings.TrimSuffix(number, "%")
		}
		if _, err = strconv.ParseUint(number, 10, 63); len(setting)-len(number) > 1 {
			return false
		}
	}
	return err == nil
}
