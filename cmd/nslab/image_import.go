package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/image"
)

func newImageImportCmd(g *globals) *cobra.Command {
	var o image.ImportOptions
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] FILE|- [REPOSITORY[:TAG]]",
		Short: "Make an image of a tar with a root file system",
		Long: `Make an image of one layer from a tar with a root file system, plain or packed
with gzip or zstd. With - the tar comes from standard input. The image's id is
printed.`,
		Example: `  nslab image import rootfs.tar.gz debian
  docker export box | nslab image import - box
  nslab image import -c 'CMD ["python3"]' -c 'ENV A=1' rootfs.tar python:v1`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			o.Names = args[1:]
			return imageError(importImage(g, args[0], o))
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.Changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	flags.StringVarP(&o.Message, "message", "m", "", "Set commit message for imported image")
	flags.StringVar(&o.Platform, "platform", "", "Set platform if it is not this machine's")
	return cmd
}

func importImage(g *globals, from string, o image.ImportOptions) (err error) {
	if strings.Contains(from, "://") {
		return &statusError{exitFailed, fmt.Errorf("import %s: images come from files, and not from the network", from),
			"load it first: curl -L " + from + " | nslab image import -"}
	}
	if o.Message == "" {
		o.Message = "Imported from " + from
	}
	if o.Created, err = sourceDate(); err != nil {
		return err
	}
	s, err := g.images()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	in, err := openArchive(from)
	if err != nil {
		return err
	}
	defer in.Close()
	unpacks()
	i, err := s.Import(ctx, in, o)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if errors.Is(err, image.ErrReference) || errors.Is(err, image.ErrInstruction) {
		return err // not the file's fault
	}
	if err != nil {
		return fmt.Errorf("import %s: %w", from, err)
	}
	warnLost(i)
	fmt.Println(i.ID)
	return nil
}

// warnLost says what of an archive is not there, since the user may not make it. That everything is his own goes without
// saying.
func warnLost(i *image.Image) {
	var list []string
	for _, what := range slices.Sorted(maps.Keys(i.Lost)) {
		if what != "owner" {
			list = append(list, fmt.Sprintf("%d %s", i.Lost[what], what))
		}
	}
	if len(list) > 0 {
		warn("without root's rights left out: " + strings.Join(list, ", "))
	}
}

// openArchive opens a file that is to be read from front to back.
func openArchive(name string) (io.ReadCloser, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		if st, err := f.Stat(); err == nil && st.IsDir() {
			f.Close()
			return nil, &statusError{exitFailed, fmt.Errorf("import %s: it is a folder", name), "pack it on the way: tar -C " + name + " -c . | nslab image import -"}
		}
		return f, nil
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, &statusError{exitFailed, errors.New("import -: standard input is a terminal"), "name a file, or send one through a pipe"}
	}
	return os.Stdin, nil
}
