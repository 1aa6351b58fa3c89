package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// ldconfig(8) writes down where the libraries of a machine lie, so that the loader does not have to search: names, sorted
// for a binary search, with a path each. The file is the only place that knows the folders of /etc/ld.so.conf. Its form is
// that of struct cache_file_new in glibc's sysdeps/generic/dl-cache.h; all numbers in the machine's own byte order.

const (
	cacheFile      = "/etc/ld.so.cache"
	cacheMagic     = "glibc-ld.so.cache1.1"
	oldCacheMagic  = "ld.so-1.7.0\x00" // before glibc 2.32 a table of libc5's time comes first, and is skipped
	cacheHeader    = 48
	cacheEntrySize = 24
)

// cacheEntry is one line of what `ldconfig -p` prints.
type cacheEntry struct {
	name, path string
	flags      uint32 // kind of library and machine; the files are looked at anyway
	hwcap      uint64 // not 0: a variant for newer processors, which need not be there
}

// cache returns the entries of the host's cache, none if it has no cache. Variants for some processors come last: the
// plain library runs on all.
func (p *planner) cache() ([]cacheEntry, error) {
	if p.cached {
		return p.caches, nil
	}
	data, err := p.host.readSmall(cacheFile)
	if errors.Is(err, unix.ENOENT) {
		p.cached = true
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := parseCache(data)
	if err != nil {
		return nil, fmt.Errorf("04-rootfs: read %s: %w", cacheFile, err)
	}
	var plain, special []cacheEntry
	for _, e := range all {
		if e.hwcap == 0 {
			plain = append(plain, e)
		} else {
			special = append(special, e)
		}
	}
	p.caches, p.cached = append(plain, special...), true
	return p.caches, nil
}

func parseCache(data []byte) ([]cacheEntry, error) {
	if bytes.HasPrefix(data, []byte(oldCacheMagic)) && len(data) >= 16 {
		skip := 16 + 12*uint64(binary.NativeEndian.Uint32(data[12:]))
		skip = (skip + 7) &^ 7
		if skip > uint64(len(data)) {
			return nil, errors.New("the file is cut off")
		}
		data = data[skip:]
	}
	if !bytes.HasPrefix(data, []byte(cacheMagic)) || len(data) < cacheHeader {
		return nil, errors.New("it has another form than glibc-ld.so.cache1.1")
	}
	n := uint64(binary.NativeEndian.Uint32(data[20:]))
	if n > uint64(len(data)-cacheHeader)/cacheEntrySize {
		return nil, errors.New("the file is cut off")
	}
	text := func(offset uint32) string {
		if uint64(offset) >= uint64(len(data)) {
			return ""
		}
		return cString(data[offset:])
	}
	entries := make([]cacheEntry, 0, n)
	for i := range n {
		b := data[cacheHeader+i*cacheEntrySize:]
		entries = append(entries, cacheEntry{
			flags: binary.NativeEndian.Uint32(b), name: text(binary.NativeEndian.Uint32(b[4:])),
			path: text(binary.NativeEndian.Uint32(b[8:])), hwcap: binary.NativeEndian.Uint64(b[16:]),
		})
	}
	return entries, nil
}

// formatCache is the reverse. The entries must be in the order of the file they come from.
func formatCache(entries []cacheEntry) []byte {
	head := make([]byte, cacheHeader, cacheHeader+len(entries)*cacheEntrySize)
	copy(head, cacheMagic)
	head[28] = 2 // little endian, what nearly all machines are
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		head[28] = 3
	}
	var text []byte
	base := cacheHeader + len(entries)*cacheEntrySize
	for _, e := range entries {
		name := base + len(text)
		text = append(append(text, e.name...), 0)
		file := base + len(text)
		text = append(append(text, e.path...), 0)
		head = binary.NativeEndian.AppendUint32(head, e.flags)
		head = binary.NativeEndian.AppendUint32(head, uint32(name))
		head = binary.NativeEndian.AppendUint32(head, uint32(file))
		head = binary.NativeEndian.AppendUint32(head, 0)
		head = binary.NativeEndian.AppendUint64(head, e.hwcap)
	}
	binary.NativeEndian.PutUint32(head[20:], uint32(len(entries)))
	binary.NativeEndian.PutUint32(head[24:], uint32(len(text)))
	return append(head, text...)
}

// settings adds the loader's cache, cut down to the libraries that are in the plan: without it the loader would find only
// those in its standard folders, and the host's own would promise libraries that are not there.
func (p *planner) settings() error {
	if !p.glibc {
		return nil
	}
	entries, err := p.cache()
	if err != nil {
		return err
	}
	var kept []cacheEntry
	for _, e := range entries {
		if e.hwcap == 0 && p.plan.has(e.path) {
			kept = append(kept, e)
		}
	}
	if _, taken := p.plan.At(cacheFile); taken || len(kept) == 0 {
		return nil
	}
	if _, err := p.add("/etc", Reason{OnTheWay, cacheFile}); err != nil {
		return err
	}
	made := formatCache(kept)
	p.plan.put(Entry{
		Path: cacheFile, Mode: fs.FileMode(0o644), Made: made, Size: int64(len(made)), Why: Reason{Settings, "ld.so"},
	})
	return nil
}
