package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
)

func newContainerCpCmd(g *globals) *cobra.Command {
	var o engine.CopyOptions
	var quiet bool
	cmd := &cobra.Command{
		Use: "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n" +
			"  nslab container cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files and folders between a container and this machine",
		Long: `Copy files and folders between a container and this machine. The container need
not run; if it does, volumes and tmpfs are seen as it sees them.

With - as the source, a tar archive is read from standard input and unpacked
into a folder of the container; with - as the destination, one is written to
standard output.

If the destination is a folder, the copy goes into it, else it is what the copy
becomes. DIR/. is what is in a folder, without the folder. Paths in the
container begin at its root.`,
		Example: `  nslab container cp web:/var/log/app.log .
  nslab container cp site/. web:/srv/www
  nslab container cp web:/etc - | tar -t`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(2, 2),
		ValidArgsFunction:     completeCopy(g.containerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			quiet = quiet || !cmd.Flags().Changed("quiet") && !term.IsTerminal(1)
			o.Warn = warn
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				done, err := copyFiles(ctx, cmd, e, args[0], args[1], o)
				if err != nil {
					return copyError(err)
				}
				if !quiet && done != "" {
					fmt.Fprintln(cmd.ErrOrStderr(), done)
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.Archive, "archive", "a", false, "Archive mode: what is copied out keeps its owner and its rights")
	flags.BoolVarP(&o.FollowLink, "follow-link", "L", false, "Always follow symbolic link in SRC_PATH")
	flags.BoolVarP(&quiet, "quiet", "q", false, "Do not say how much was copied; nothing is said without a terminal, either")
	return cmd
}

// copyFiles copies, and returns what to say about it.
func copyFiles(ctx context.Context, cmd *cobra.Command, e *engine.Engine, source, dest string, o engine.CopyOptions) (string, error) {
	const hint = "name a path in a container as CONTAINER:PATH"
	from, fromPath := splitCopyArg(source)
	to, toPath := splitCopyArg(dest)
	fail := func(text string) (string, error) { return "", &statusError{exitFailed, errors.New(text), hint} }
	switch {
	case source == "":
		return fail("source can not be empty")
	case dest == "":
		return fail("destination can not be empty")
	case from != "" && to != "":
		return "", &statusError{exitFailed, errors.New("copying between containers is not supported"),
			fmt.Sprintf("copy it in a pipe: nslab container cp %s - | nslab container cp - %s", source, to+":"+path.Dir(path.Clean(toPath)))}
	case from == "" && to == "":
		return fail("must specify at least one container source")
	case fromPath == "" || toPath == "":
		return fail("no such directory: the path in the container is empty")
	}
	var n int64
	var err error
	switch {
	case source == "-":
		return "", e.CopyTarTo(ctx, cmd.InOrStdin(), to, toPath, o)
	case dest == "-":
		return "", e.CopyTarFrom(ctx, from, fromPath, cmd.OutOrStdout(), o)
	case to != "":
		n, err = e.CopyTo(ctx, source, to, toPath, o)
	default:
		n, err = e.CopyFrom(ctx, from, fromPath, dest, o)
	}
	return fmt.Sprintf("Successfully copied %s to %s", format.Size(n), dest), err
}

// splitCopyArg takes CONTAINER:PATH apart. What begins with a slash or a dot is a path of this machine, whatever colons it has.
func splitCopyArg(arg string) (container, path string) {
	container, path, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") {
		return "", arg
	}
	return container, path
}

// copyError gives an error of `cp` its hint.
func copyError(err error) error {
	s := &statusError{status: exitFailed, err: err}
	var missing *engine.MissingFileError
	switch {
	case errors.As(err, &missing):
		s.hint = fmt.Sprintf("'nslab container exec %s ls -la %s' shows what is there, if the container runs", missing.Container, path.Dir(path.Clean("/"+missing.Path)))
	case errors.Is(err, engine.ErrCopyDir):
		s.hint = "the destination is a file: name a folder, or something that is not there"
	case errors.Is(err, engine.ErrNoSuchDir):
		s.hint = "a path that ends in / must be a folder that is there"
	case errors.Is(err, engine.ErrKernelFile):
		s.hint = "read it from inside: nslab container exec CONTAINER cat PATH"
	default:
		return withStatus(exitFailed, err)
	}
	return s
}

// completeCopy offers containers, and files of this machine. What is in a container is not looked up: that takes time.
func completeCopy(containers lister) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= 2 || strings.Contains(typed, ":") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var list []cobra.Completion
		if !strings.HasPrefix(typed, "/") && !strings.HasPrefix(typed, ".") {
			for _, name := range containers() {
				if strings.HasPrefix(name, typed) {
					list = append(list, name+":")
				}
			}
		}
		if len(list) > 0 && typed != "" {
			return list, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		}
		return list, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveDefault
	}
}
