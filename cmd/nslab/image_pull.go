package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/registry"
)

// pullOptions are the flags of pull.
type pullOptions struct {
	all, quiet, verify bool
	platform           string
	forRun             bool                 // the user has named the image of a container, and is told less
	progress           func(image.Progress) // of a quiet one, for who has a place to show it
}

func newImagePullCmd(g *globals) *cobra.Command {
	var o pullOptions
	platform := opts.NewWord("", opts.Platform)
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Download an image from a registry",
		Long: `Download an image from a registry, several layers at a time, each unpacked and
checked on the way. What is here already is not downloaded again, and what was
interrupted goes on where it stopped.

Of an image for several platforms that of this machine is taken. Credentials
are those of Docker: see 'nslab login'. A registry on this machine may do
without TLS.`,
		Example: `  nslab image pull busybox
  nslab image pull localhost:5000/tools:v2
  nslab image pull --platform linux/arm64 debian
  nslab image pull -a -q registry.example.com/team/app`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 1),
		ValidArgsFunction:     completeNames(g.imageNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.platform = platform.String()
			ctx, stop := interruptible()
			defer stop()
			return imageError(pullImage(ctx, g, cmd.OutOrStdout(), args[0], o))
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all-tags", "a", false, "Download all tagged images in the repository")
	flags.Var(platform, "platform", "Set platform if the image has several")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress verbose output")
	tlsFlag(flags, &o.verify)
	return cmd
}

// pullImage pulls an image, or all that a repository has, and says so as Docker does.
func pullImage(ctx context.Context, g *globals, w io.Writer, ref string, o pullOptions) error {
	n, err := image.ParseName(ref)
	if err != nil {
		return err
	}
	if _, err := image.ParsePlatform(o.platform); err != nil {
		return err
	}
	s, err := g.images()
	if err != nil {
		return err
	}
	if o.all && explicitTag(ref, n) {
		return &statusError{exitFailed, errors.New("tag can't be used with --all-tags/-a"), "leave the tag out"}
	}
	c := newRegistryClient(o.verify)
	defer c.Close()
	tags, shown := []string{n.Tag}, n.String()
	if o.all {
		if tags, err = c.Tags(ctx, ref); err != nil {
			return fmt.Errorf("pull %s: %w", n.Repository(), err)
		}
		shown, n.Tag = n.Repository(), ""
	} else if !explicitTag(ref, n) && !o.quiet && !o.forRun {
		fmt.Fprintln(w, "Using default tag: latest")
	}
	changed := false
	for _, tag := range tags {
		one := n
		one.Tag = tag
		p, err := pullOne(ctx, c, s, w, one, o)
		if err != nil {
			return fmt.Errorf("pull %s: %w", one, err)
		}
		warnLost(p.Image)
		changed = changed || p.Changed
	}
	if !o.quiet {
		status := "Image is up to date for"
		if changed {
			status = "Downloaded newer image for"
		}
		fmt.Fprintln(w, "Status:", status, shown)
	}
	if !o.forRun {
		_, err = fmt.Fprintln(w, n.Full())
	}
	return err
}

// pullFor pulls the image of a container. What is printed is no output of the container.
func pullFor(ctx context.Context, g *globals, ref string, o pullOptions) error {
	o.forRun = true
	w := io.Writer(os.Stderr)
	if o.quiet {
		w = io.Discard
	}
	return pullImage(ctx, g, w, ref, o)
}

// explicitTag says whether a name was given with a tag or a digest.
func explicitTag(ref string, n image.Name) bool {
	return n.Digest != "" || strings.HasSuffix(ref, ":"+n.Tag)
}

func pullOne(ctx context.Context, c *registry.Client, s *image.Store, w io.Writer, n image.Name, o pullOptions) (*registry.Pulled, error) {
	if o.quiet {
		return c.Pull(ctx, s, n.Full(), registry.PullOptions{Platform: o.platform, Progress: o.progress})
	}
	what := n.Tag
	if n.Digest != "" {
		what = n.String()
	}
	v := newLayerView(w)
	found := func() { fmt.Fprintf(w, "%s: Pulling from %s\n", what, n.Path) }
	p, err := c.Pull(ctx, s, n.Full(), registry.PullOptions{Platform: o.platform, Progress: v.pulling, Found: found})
	v.close()
	if err == nil {
		fmt.Fprintln(w, "Digest:", p.Digest)
	}
	return p, err
}

// pulling shows what happens to a layer that comes.
func (v *layerView) pulling(p image.Progress) {
	v.set(p.Layer, image.ShortID(string(p.Digest)), pullState(p))
}

func pullState(p image.Progress) layerState {
	l := layerState{current: p.Current, total: p.Total}
	switch p.State {
	case image.Waiting:
		l.text = "Waiting"
	case image.Present:
		l.text, l.final = "Already exists", true
	case image.Receiving:
		l.text, l.moving = "Pulling fs layer", true
	case image.Received:
		l.text, l.final = "Pull complete", true
	}
	return l
}
