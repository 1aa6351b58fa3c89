package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/engine"
)

func newContainerExportCmd(g *globals) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] CONTAINER",
		Short: "Write a container's files as a tar archive",
		Long: `Write all files of a container as a tar archive: its image's with its own
changes. Volumes are not part of it. 'nslab image import' makes an image of
such an archive.`,
		Example: `  nslab container export -o web.tar web
  nslab container export web | nslab image import - web:flat`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 1),
		ValidArgsFunction:     completeNames(g.containerNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && term.IsTerminal(1) {
				return &statusError{exitFailed, errors.New("cowardly refusing to save to a terminal"), "use the -o flag or redirect"}
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				export := func(w io.Writer) error { return e.Export(ctx, args[0], w) }
				if output == "" {
					return export(cmd.OutOrStdout())
				}
				return writeOutput(ctx, output, export)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

// writeOutput writes a file beside the one that is wanted, and renames it when it is whole: a failure leaves the old one. What is
// not a regular file is written to as it is.
func writeOutput(ctx context.Context, name string, write func(io.Writer) error) (err error) {
	if st, err := os.Stat(filepath.Dir(name)); err != nil {
		return fmt.Errorf("invalid output path: %w", err)
	} else if !st.IsDir() {
		return fmt.Errorf("invalid output path: %s is not a directory", filepath.Dir(name))
	}
	st, err := os.Stat(name)
	switch {
	case err == nil && st.IsDir():
		return &statusError{exitFailed, fmt.Errorf("invalid output path: %s is a directory", name), "name a file in it"}
	case err == nil && !st.Mode().IsRegular():
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-"+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close(), ctx.Err())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
