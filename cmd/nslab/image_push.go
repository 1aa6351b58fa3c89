package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/registry"
)

// pushOptions are the flags of push.
type pushOptions struct{ all, quiet, verify bool }

func newImagePushCmd(g *globals) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Upload an image to a registry",
		Long: `Upload an image to the registry that its name begins with, so it may need
another name first: see 'nslab image tag'. Layers that the registry has are not
sent again, and those that another repository there has are taken from it.`,
		Example: `  nslab image tag tools localhost:5000/tools:v2
  nslab image push localhost:5000/tools:v2
  nslab image push -a -q registry.example.com/team/app`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 1),
		ValidArgsFunction:     completeNames(g.imageNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible()
			defer stop()
			return imageError(pushImage(ctx, g, cmd.OutOrStdout(), args[0], o))
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all-tags", "a", false, "Push all tags of an image to the repository")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress verbose output")
	tlsFlag(flags, &o.verify)
	return cmd
}

// pushImage pushes an image, or all of a repository that are here, and says so as Docker does.
func pushImage(ctx context.Context, g *globals, w io.Writer, ref string, o pushOptions) error {
	n, err := image.ParseName(ref)
	if err != nil {
		return err
	}
	s, err := g.images()
	if err != nil {
		return err
	}
	tags := []string{n.Tag}
	switch {
	case o.all && explicitTag(ref, n):
		return &statusError{exitFailed, errors.New("tag can't be used with --all-tags/-a"), "leave the tag out"}
	case n.Digest != "":
		return &image.ReferenceError{Ref: ref, Why: "cannot push a digest reference"}
	case o.all:
		if tags, err = tagsHere(s, n); err != nil {
			return err
		}
		n.Tag = ""
	case !explicitTag(ref, n) && !o.quiet:
		fmt.Fprintln(w, "Using default tag: latest")
	}
	c := newRegistryClient(o.verify)
	defer c.Close()
	if !o.quiet {
		fmt.Fprintf(w, "The push refers to repository [%s/%s]\n", n.Domain, n.Path)
	}
	for _, tag := range tags {
		one := n
		one.Tag = tag
		if err := pushOne(ctx, c, s, w, one, o); err != nil {
			return fmt.Errorf("push %s: %w", one, err)
		}
	}
	if o.quiet {
		_, err = fmt.Fprintln(w, n.Full())
	}
	return err
}

// tagsHere lists the tags of a repository that the store has.
func tagsHere(s *image.Store, n image.Name) (tags []string, err error) {
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		for _, name := range i.Names {
			if other, err := image.ParseName(name); err == nil && other.Domain == n.Domain && other.Path == n.Path {
				tags = append(tags, other.Tag)
			}
		}
	}
	if len(tags) == 0 {
		return nil, &image.NotFoundError{Ref: n.Repository()}
	}
	slices.Sort(tags)
	return tags, nil
}

func pushOne(ctx context.Context, c *registry.Client, s *image.Store, w io.Writer, n image.Name, o pushOptions) error {
	if o.quiet {
		_, err := c.Push(ctx, s, n.Full(), registry.PushOptions{})
		return err
	}
	v := newLayerView(w)
	sent, err := c.Push(ctx, s, n.Full(), registry.PushOptions{Progress: v.pushing})
	v.close()
	if err == nil {
		_, err = fmt.Fprintf(w, "%s: digest: %s size: %d\n", n.Tag, sent.Digest, sent.Size)
	}
	return err
}

// pushing shows what happens to a layer that goes.
func (v *layerView) pushing(p registry.PushProgress) {
	id := image.ShortID(string(p.DiffID))
	l := layerState{current: p.Current, total: p.Total}
	switch p.State {
	case registry.Preparing:
		l.text = "Preparing"
	case registry.Pushing:
		l.text, l.moving = "Pushing", true
	case registry.Pushed:
		l.text, l.final = "Pushed", true
	case registry.Exists:
		l.text, l.final = "Layer already exists", true
	case registry.Mounted:
		l.text, l.final = strings.TrimSpace("Mounted from "+p.From), true
	}
	v.set(p.Layer, id, l)
}
