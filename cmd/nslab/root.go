package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fatih/color"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nslab/nslab/cmdline"
	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/engine"
)

// globals are the flags that every command takes.
type globals struct {
	lang    string
	root    string
	runRoot string

	line cmdline.Line // what is going to run, as far as that can be seen beforehand
}

// language is what was asked for, else what the locale says.
func (g *globals) language() string {
	if g.lang != "" {
		return g.lang
	}
	return course.LanguageFromEnv()
}

// newRootCmd makes the command that all others belong to, and those of them that these arguments may need.
func newRootCmd(args []string) *cobra.Command {
	g := &globals{line: cmdline.Read(args)}
	root := &cobra.Command{
		Use:   "nslab",
		Short: "Understand containers by doing each kernel trick for real",
		Long: `nslab does what a container runtime does, one kernel feature at a time, and
shows the kernel's own evidence that it happened. The functions that a lab
shows are the ones the runtime runs.`,
		Example: `  nslab doctor              can this machine run the labs?
  nslab list                what there is to learn
  nslab run 01              the first lab, step by step
  nslab run all --auto      every lab, straight through`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := "'nslab --help' lists the commands"
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean " + strings.Join(near, " or ") + "?"
			}
			return usageError(hint, "no command is called %q", args[0])
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if g.lang != "" && !slices.Contains(languages, g.lang) {
				return usageError("use "+strings.Join(languages, " or "), "--lang: %q is not a language of nslab", g.lang)
			}
			g.runRoot = course.RunRoot(g.runRoot)
			if g.root == "" {
				g.root = engine.DefaultRoot()
			}
			return nil
		},
	}
	root.SuggestionsMinimumDistance = 2
	cobra.AddTemplateFunc("wrapped", wrapped)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages ", "Flags | wrapped "))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Sprintf("'%s --help' shows the flags", cmd.CommandPath()), "%w", oneLine(err))
	})
	flags := root.PersistentFlags()
	flags.StringVar(&g.lang, "lang", "", "en or zh (default: from LC_ALL, LC_MESSAGES, LANG)")
	flags.StringVar(&g.root, "root", "", "what is kept (default $NSLAB_ROOT or /var/lib/nslab)")
	flags.StringVar(&g.runRoot, "run-root", "", "run state (default $NSLAB_RUN_ROOT or /run/nslab)")
	root.RegisterFlagCompletionFunc("lang", cobra.FixedCompletions(languages, cobra.ShellCompDirectiveNoFileComp))
	made := chosen(commands, g.line.Noun)
	for _, m := range made {
		root.AddCommand(m.make(g))
	}
	root.CompletionOptions.DisableDefaultCmd = len(made) == 1
	root.InitDefaultCompletionCmd()
	return root
}

// wrapped lists flags in lines that fit: on the terminal, else in 80 columns.
func wrapped(flags *pflag.FlagSet) string {
	return flags.FlagUsagesWrapped(course.TerminalWidth())
}

var (
	languages = []string{"en", "zh"}
	formats   = []string{"text", "json"}
)

// formatFlag adds --format, which checkFormat validates.
func formatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVar(format, "format", "text", "text for people, json for programs")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

func checkFormat(format string) error {
	if !slices.Contains(formats, format) {
		return usageError("use "+strings.Join(formats, " or "), "--format: %q is not a format", format)
	}
	return nil
}

// noArgs refuses arguments of a command that takes none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(fmt.Sprintf("'%s --help' shows how to use it", cmd.CommandPath()),
			"%s takes no arguments, but got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// colored says whether standard output takes colours: a terminal, and no NO_COLOR (https://no-color.org).
func colored() bool { return !color.NoColor }
