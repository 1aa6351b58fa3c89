package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
)

// Of what a change makes, the blobs are on the disk before a name leads to them. The files of a layer are not: they can be had
// again from the blob, and to wait until the last of twenty thousand has reached the disk takes as long as to make them. But
// nobody must take for whole what a crash of the machine has left of them. So layer.json says in which boot of the machine they
// were written (random(4): boot_id), and they count for as long as it is up, since then they are in the page cache or on the
// disk. After a boot they are unpacked again, which checks every byte; unless they have settled before:
//
//	images/.unsettled/<chain-id>    the layer still says in which boot it was written
//
// A minute later the kernel has written them by itself (dirty_expire_centisecs), and the next change of the store waits for the
// rest with syncfs(2), and takes the remark away.

const (
	unsettled   = ".unsettled"
	settleAfter = time.Minute
)

func (s *Store) unsettledPath(chain digest.Digest) string {
	return s.images(unsettled, chain.Encoded())
}

// bootID is a number that the kernel has chosen when it was booted. Without one, every change waits for the disk.
func bootID() string {
	fd, err := unix.Open("/proc/sys/kernel/random/boot_id", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(buf[:n]))
}

// layerInfo reads what is known about an unpacked layer. That it can be read says that the layer is whole; what is not whole
// is not there: fs.ErrNotExist.
func (s *Store) layerInfo(chain digest.Digest) (info layerInfo, err error) {
	data, err := readSmall(s.layerPath(chain, layerFile), maxManifest)
	if err != nil {
		return info, err
	}
	if err := jsonfile.Unmarshal(data, &info); err != nil { // it was written when the machine crashed
		return info, fmt.Errorf("read what is known of the layer: %w: %w", fs.ErrNotExist, err)
	}
	if info.Boot != "" && info.Boot != bootID() {
		return info, fmt.Errorf("it was unpacked before the machine was booted: %w", fs.ErrNotExist)
	}
	return info, nil
}

// toDisk waits until what is staged is on the disk, as far as it must be. All wait at the same time: the file system writes its
// journal once for all of them.
func (c *change) toDisk() error {
	for _, l := range c.layers {
		if info, err := readInfo(l.from); err != nil || info.Boot == "" {
			return errors.Join(err, unix.Syncfs(int(c.lock.Fd())))
		}
	}
	var names []string
	for _, d := range c.blobs {
		names = append(names, c.path(d))
	}
	return syncAll(names...)
}

func readInfo(dir string) (info layerInfo, err error) {
	data, err := readSmall(dir+"/"+layerFile, maxManifest)
	if err == nil {
		err = jsonfile.Unmarshal(data, &info)
	}
	return info, err
}

// syncAll waits until files, or the names in folders, are on the disk.
func syncAll(names ...string) error {
	var group errgroup.Group
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error { return errors.Join(f.Sync(), f.Close()) })
	}
	return group.Wait()
}

// markUnsettled notes a layer that has not settled, before it gets its name.
func (s *Store) markUnsettled(chain digest.Digest) error {
	create := func() (*os.File, error) {
		return os.OpenFile(s.unsettledPath(chain), os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	}
	f, err := create()
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(s.images(unsettled), 0o700); err == nil {
			f, err = create()
		}
	}
	if err != nil {
		return err
	}
	now := time.Now()
	return errors.Join(f.Close(), os.Chtimes(f.Name(), now, now))
}

// settle ends the waiting of layers that were made a while ago. That it cannot is no error: they go on waiting.
func (s *Store) settle() {
	dir, err := os.Open(s.images(unsettled))
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	before := map[digest.Digest]unix.Stat_t{}
	for _, hex := range names {
		if st, err := os.Lstat(s.images(unsettled, hex)); err != nil || time.Since(st.ModTime()) < settleAfter {
			continue
		}
		var st unix.Stat_t
		chain := digest.Digest("sha256:" + hex)
		if !isDigest(chain) || unix.Lstat(s.layerPath(chain, layerFile), &st) != nil {
			os.Remove(s.images(unsettled, hex)) // of a layer that is gone
			continue
		}
		before[chain] = st
	}
	if len(before) == 0 || unix.Syncfs(int(dir.Fd())) != nil {
		return
	}
	s.locked(unix.LOCK_EX, func() error {
		for chain, old := range before {
			var st unix.Stat_t
			err := unix.Lstat(s.layerPath(chain, layerFile), &st)
			if err == nil && st.Ino == old.Ino && st.Ctim == old.Ctim { // and not another one, unpacked meanwhile
				err = s.settled(chain)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// settled says of a layer that it is on the disk. One that was unpacked before the last boot is no layer.
func (s *Store) settled(chain digest.Digest) error {
	if info, err := s.layerInfo(chain); err == nil && info.Boot != "" {
		info.Boot = ""
		text, err := json.Marshal(info)
		if err == nil {
			err = replaceFile(s.layerPath(chain, layerFile), text)
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(s.unsettledPath(chain))
}
