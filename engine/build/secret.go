package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const maxSecret = 500 << 10 // as buildkit has it

// secret reads one that the command line names.
func (b *builder) secret(id string) (content []byte, found bool, err error) {
	s, ok := b.Secrets[id]
	if !ok {
		return nil, false, nil
	}
	if s.Env != "" {
		v, ok := os.LookupEnv(s.Env)
		return []byte(v), ok, nil
	}
	st, err := os.Stat(s.File)
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err == nil && st.Size() > maxSecret {
		err = fmt.Errorf("it has more than %d bytes", maxSecret)
	}
	if err == nil {
		content, err = os.ReadFile(s.File)
	}
	if err != nil {
		return nil, false, fmt.Errorf("secret %s: %w", id, err)
	}
	return content, true, nil
}

// lockCache waits for a cache that only one build may use at a time or, without patience, says whether it is free.
func lockCache(ctx context.Context, dir string, wait bool) (lock *os.File, free bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("make a cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("lock a cache: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, true, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, false, errors.Join(fmt.Errorf("lock a cache: %w", err), f.Close())
		case !wait:
			return nil, false, f.Close()
		}
		select {
		case <-ctx.Done():
			return nil, false, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
