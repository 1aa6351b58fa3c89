package main

import (
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/signal"
	"github.com/spf13/cobra"
)

// lister tells the names of what there is: containers, images, volumes. Whatever goes wrong, it offers nothing.
type lister func() []string

// completing says whether a shell asks for completions. Nothing is registered for them otherwise, since that takes time.
func completing() bool {
	return len(os.Args) > 1 && (os.Args[1] == cobra.ShellCompRequestCmd || os.Args[1] == cobra.ShellCompNoDescRequestCmd)
}

// completeNames offers what list tells for the first max arguments, or for all if max is negative, but nothing twice.
func completeNames(list lister, max int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if max >= 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := slices.DeleteFunc(list(), func(name string) bool { return slices.Contains(args, name) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeImage offers images for the first argument of run and create, and files for those of the program.
func completeImage(images lister) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return images(), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeRunFlags registers completions for the values of the flags of run and create.
func completeRunFlags(cmd *cobra.Command, containers lister) {
	if !completing() {
		return
	}
	words := func(flag string, list ...string) {
		cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
	}
	words("attach", "stderr", "stdin", "stdout")
	words("cap-add", capabilities()...)
	words("cap-drop", capabilities()...)
	words("cgroupns", "host", "private")
	words("driver", "overlay", "aufs", "aufs-fuse")
	words("log-driver", "json-file", "none")
	words("pull", "always", "missing", "never")
	words("restart", "no")
	words("stop-signal", signals()...)
	words("userns", "host")
	words("uts", "host")
	for _, flag := range []string{"name", "hostname", "memory", "cpus", "user", "workdir", "label", "add-host", "pids-limit"} {
		words(flag)
	}
	beginnings(cmd, "detach-keys", "ctrl-")
	beginnings(cmd, "log-opt", "max-file=", "max-size=")
	beginnings(cmd, "security-opt", "no-new-privileges", "seccomp=", "seccomp=unconfined", "systempaths=unconfined", "label=disable", "apparmor=unconfined")
	beginnings(cmd, "ulimit", "core=", "cpu=", "data=", "fsize=", "locks=", "memlock=", "msgqueue=", "nice=", "nofile=", "nproc=", "rss=",
		"rtprio=", "rttime=", "sigpending=", "stack=")
	beginnings(cmd, "mount", "type=bind,source=", "type=volume,source=", "type=tmpfs,target=")
	cmd.RegisterFlagCompletionFunc("env", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var names []string
		for _, pair := range os.Environ() {
			name, _, _ := strings.Cut(pair, "=")
			names = append(names, name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	cmd.RegisterFlagCompletionFunc("volumes-from", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return containers(), cobra.ShellCompDirectiveNoFileComp
	})
	for flag, modes := range map[string][]string{
		"pid": {"host"}, "ipc": {"private", "shareable", "host", "none"}, "network": {"none", "host"},
	} {
		cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			list := slices.Clone(modes)
			for _, name := range containers() {
				list = append(list, "container:"+name)
			}
			return list, cobra.ShellCompDirectiveNoFileComp
		})
	}
}

// beginnings registers values of which more may follow.
func beginnings(cmd *cobra.Command, flag string, list ...string) {
	cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp))
}

func capabilities() []string {
	list := []string{"ALL"}
	for _, c := range capability.ListKnown() {
		list = append(list, "CAP_"+strings.ToUpper(c.String()))
	}
	return list
}

func signals() (list []string) {
	for name := range signal.SignalMap {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}
