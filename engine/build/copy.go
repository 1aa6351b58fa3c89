package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"

	"github.com/nslab/nslab/engine/build/files"
)

// copy carries out COPY and ADD.
func (r *run) copy(ctx context.Context) error {
	in, shown, err := r.copyInstruction()
	if err != nil {
		return err
	}
	var from *state // people see the work begin when what it waits for is there
	if name, ok := r.Flag("from"); ok {
		if from, err = r.b.source(ctx, r.s, name); err != nil {
			return err
		}
	}
	v := r.s.vertex(r.Original)
	r.b.Progress.Begin(v)
	outcome, err := r.copyFiles(ctx, in, shown, from)
	if err != nil || outcome == Done {
		r.end(ctx, v, err)
		return err
	}
	r.b.Progress.End(v, outcome)
	return nil
}

func (r *run) copyFiles(ctx context.Context, in files.Instruction, shown string, from *state) (Outcome, error) {
	if from == nil {
		return r.copyFrom(ctx, in, shown, r.b.context.Root())
	}
	// If the very layers are known that it was copied from, they need not be looked at.
	quick := ""
	if chain := chainOf(from); chain != "" {
		quick = digestOf(r.st.key, "from", chain, fmt.Sprintf("%q %v", []any{in.Sources, in.Inline, in.Dest, in.Workdir, in.Chown, in.Chmod, in.Exclude}, in.Parents))
		if hit, err := r.cached(quick, shown); hit || err != nil {
			return Cached, err
		}
	}
	outcome := Failed
	err := r.b.readable(ctx, from.dirs, func(t *rootfs.Tree) error {
		root, err := files.NewRoot(ctx, t)
		if err != nil {
			return err
		}
		outcome, err = r.copyFrom(ctx, in, shown, root)
		return errors.Join(err, root.Close())
	})
	if err == nil && quick != "" {
		r.b.draft.Alias(quick, r.st.key)
	}
	return outcome, err
}

func (r *run) copyFrom(ctx context.Context, in files.Instruction, shown string, from *files.Root) (Outcome, error) {
	plan, err := in.Resolve(ctx, from)
	if err != nil {
		return Failed, err
	}
	defer plan.Close()
	d, err := plan.Digest(ctx)
	if err != nil {
		return Failed, err
	}
	key := digestOf(r.st.key, r.Name, string(d))
	if hit, err := r.cached(key, shown); hit || err != nil {
		return Cached, err
	}
	err = r.layer(ctx, key, shown, func(room string) (bool, error) {
		changed := false
		err := r.writable(ctx, room, func(t *rootfs.Tree) error {
			res, err := plan.Copy(ctx, t)
			changed = res.Changed
			return err
		})
		return !changed, err
	})
	return Done, err
}

// copyInstruction expands what is written.
func (r *run) copyInstruction() (in files.Instruction, shown string, err error) {
	in = files.Instruction{
		Add: r.Name == "ADD", Workdir: r.absolute("."), Parents: r.Is("parents"), Link: r.Is("link"), Epoch: r.b.Epoch,
	}
	words := []string{r.Name}
	for name, to := range map[string]*string{"chown": &in.Chown, "chmod": &in.Chmod, "checksum": &in.Checksum} {
		value, _ := r.Flag(name)
		if *to, err = r.x.Word(value); err != nil {
			return in, "", err
		}
	}
	if in.Chown != "" {
		words = append(words, "--chown="+in.Chown)
	}
	if in.Chmod != "" {
		words = append(words, "--chmod="+in.Chmod)
	}
	if _, ok := r.Flag("unpack"); ok {
		unpack := r.Is("unpack")
		in.Unpack = &unpack
	}
	if in.Exclude, err = r.x.All(r.FlagAll("exclude")); err != nil {
		return in, "", err
	}
	sources := r.Args[:len(r.Args)-1]
	for _, s := range sources {
		if h, ok := r.HeredocIn(s); ok && !r.JSON {
			content := h.Content
			if h.Expand {
				if content, err = r.x.Content(content); err != nil {
					return in, "", err
				}
			}
			in.Inline = append(in.Inline, files.Inline{Name: h.Name, Content: []byte(content)})
			words = append(words, s)
			continue
		}
		word, err := r.x.Word(s)
		if err != nil {
			return in, "", err
		}
		in.Sources, words = append(in.Sources, word), append(words, word)
	}
	if in.Dest, err = r.x.Word(r.Args[len(r.Args)-1]); err != nil {
		return in, "", err
	}
	if in.Scratch, err = r.b.scratch(); err != nil {
		return in, "", err
	}
	return in, strings.Join(append(words, in.Dest), " "), nil
}

// source is the stage or image that files are taken from.
func (b *builder) source(ctx context.Context, s *stage, name string) (*state, error) {
	if n := b.file.Find(name, s.index); n >= 0 {
		return b.stages[n].await(ctx)
	}
	if isNumber(name) {
		return nil, fmt.Errorf("invalid from flag value %s: there is no stage of this number before this one", name)
	}
	i, layers, dirs, err := b.base(ctx, nil, name, "")
	if err != nil {
		return nil, err
	}
	return &state{config: i.Config, layers: layers, dirs: dirs}, nil
}

// makeWorkdir makes the folders to a path that are missing.
func makeWorkdir(ctx context.Context, t *rootfs.Tree, dir, user string) error {
	var missing []string
	for name := dir; name != "/"; name = name[:max(1, strings.LastIndexByte(name, '/'))] {
		f, err := t.Open(ctx, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err == nil {
			f.Close()
			break
		}
		missing = append(missing, name)
	}
	f, err := t.MkdirAll(ctx, dir, 0o755)
	if err != nil {
		return err
	}
	f.Close()
	if user == "" || len(missing) == 0 || os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := files.Owner(ctx, t, user)
	if err != nil {
		return err
	}
	slices.Reverse(missing)
	for _, name := range missing {
		f, err := t.Open(ctx, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Chown(uid, gid), f.Close()); err != nil {
			return fmt.Errorf("give %s its owner: %w", name, err)
		}
	}
	return nil
}
