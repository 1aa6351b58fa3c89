package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/image"
)

func newImageLoadCmd(g *globals) *cobra.Command {
	var input string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Load images from an archive",
		Long: `Load all images of an archive, from a file, a folder or standard input: what
'docker save', 'podman save', skopeo, buildah or 'nslab image save' have
written, in Docker's form or as an OCI layout, packed with gzip or zstd or not.
A name that another image has here goes to the one that is loaded.`,
		Example: `  nslab image load -i busybox.tar
  docker save busybox | nslab image load
  ssh host docker save app | nslab image load -q`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, _ []string) error {
			return imageError(loadImages(g, input, quiet || !term.IsTerminal(1)))
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&input, "input", "i", "", "Read from a file or folder, instead of STDIN")
	flags.BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
	return cmd
}

func loadImages(g *globals, from string, quiet bool) error {
	s, err := g.images()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	in, err := openImages(from)
	if err != nil {
		return err
	}
	defer in.Close()
	var tell func(image.Progress)
	shown := func() {}
	if !quiet {
		v := newLayerView(os.Stdout)
		tell, shown = v.loading, v.close
	}
	unpacks()
	list, err := s.Load(ctx, in, tell)
	shown()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		return &statusError{exitFailed, fmt.Errorf("load %s: %w", inputName(from), err), loadHint(err, from)}
	}
	for _, i := range list {
		warnLost(i)
		for _, name := range slices.Sorted(maps.Keys(i.Replaced)) {
			fmt.Printf("The image %s already exists, renaming the old one with ID %s to empty string\n", name, i.Replaced[name])
		}
		for _, name := range i.Names {
			fmt.Println("Loaded image:", name)
		}
		if len(i.Names) == 0 {
			fmt.Println("Loaded image ID:", i.ID)
		}
	}
	return nil
}

// loadHint is what to do about an archive that cannot be loaded.
func loadHint(err error, from string) string {
	var packed *image.PackingError
	switch {
	case errors.As(err, &packed) && packed.Name != "zip":
		return "unpack it on the way: " + packed.Name + " -dc FILE | nslab image load"
	case errors.Is(err, image.ErrNoImages):
		return "of a root file system, make an image: nslab image import " + inputName(from)
	}
	return ""
}

func inputName(name string) string {
	if name == "" {
		return "-"
	}
	return name
}

// openImages opens an archive of images, or a folder.
func openImages(name string) (io.ReadCloser, error) {
	if name != "" {
		return os.Open(name)
	}
	if term.IsTerminal(0) {
		return nil, &statusError{exitFailed, errors.New("requested load from stdin, but stdin is empty"), "name a file with -i, or send one through a pipe"}
	}
	return os.Stdin, nil
}

// loading shows what happens to a layer of an archive.
func (v *layerView) loading(p image.Progress) {
	l := layerState{current: p.Current, total: p.Total}
	switch p.State {
	case image.Present:
		l.text, l.final = "Already exists", true
	case image.Receiving:
		l.text, l.moving = "Loading layer", true
	case image.Received:
		l.text, l.final = "Loaded", true
	}
	v.set(p.Layer, image.ShortID(string(p.Digest)), l)
}
