package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/image"
)

func newImageSaveCmd(g *globals) *cobra.Command {
	var output, form string
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Save one or more images to a tar archive",
		Long: `Save images with all their layers and names to a tar archive, which goes to
standard output or to a file. A name without a tag means all its tags.

The archive is an OCI layout with the lists that Docker reads, too. With
--format it is only the layout (oci-archive), or a folder (oci-dir).`,
		Example: `  nslab image save -o app.tar app:v1 app:v2
  nslab image save app | gzip > app.tar.gz
  nslab image save --format oci-dir -o app.oci app:v1`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, -1),
		ValidArgsFunction:     completeNames(g.imageNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return imageError(saveImages(g, cmd.OutOrStdout(), args, output, image.Format(form)))
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	flags.StringVar(&form, "format", string(image.DockerArchive), "Form of the archive: docker-archive, oci-archive or oci-dir")
	if completing() {
		forms := []string{string(image.DockerArchive), string(image.OCIArchive), string(image.OCIDir)}
		cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func saveImages(g *globals, out io.Writer, refs []string, output string, form image.Format) (err error) {
	if output == "" && form == image.OCIDir {
		return &statusError{exitFailed, errors.New("a folder cannot be written to standard output"), "name it: -o DIR"}
	}
	if output == "" && term.IsTerminal(1) {
		return &statusError{exitFailed, errors.New("cowardly refusing to save to a terminal"), "use the -o flag or redirect"}
	}
	s, err := g.images()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	sv, err := s.Save(refs, form)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sv.Close()) }()
	switch {
	case form == image.OCIDir:
		err = sv.WriteFolder(ctx, output)
	case output == "":
		err = sv.Write(ctx, out)
	default:
		err = writeOutput(ctx, output, func(w io.Writer) error { return sv.Write(ctx, w) })
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", nameOf(output), err)
	}
	return nil
}

func nameOf(output string) string {
	if output == "" || output == os.Stdout.Name() {
		return "-"
	}
	return output
}
