package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/evidence"
	"github.com/nslab/nslab/diagnosis"
	setns "github.com/nslab/nslab/labs/06-setns"
)

// The exit statuses of a program that was not executed, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

type setnsOptions struct {
	kinds     map[string]*bool // by the names of /proc/PID/ns
	all       bool
	root, cwd bool
}

func newSetnsCmd(*globals) *cobra.Command {
	o := setnsOptions{kinds: map[string]*bool{}}
	cmd := &cobra.Command{
		Use:                   "setns FILE|PID [FLAGS] [COMMAND [ARG...]]",
		DisableFlagsInUseLine: true,
		Short:                 "Run a command inside the namespaces of a process or file",
		Long: `Run a command inside the namespaces of a process, or inside the one that a file
holds: a file of /proc/PID/ns, or a bind mount of it such as those that
'ip netns add' makes in /run/netns.

With a PID, the flags say which of its namespaces to enter, and whether to take
its root and working folder too. Without any, it is all of them: the command is
where the process is. What is shared with the process already is left alone. The
letters of the flags are those of nsenter(1).

The command is a child of nslab and keeps its terminal; without one it is a
shell. In a PID namespace it has a number of that namespace, but a /proc of the
other side unless --mount is given too. Lab 06 ('nslab run 06') shows what is
behind it.

Exit status: that of the command, 128+n if signal n ended it; 127 if it was not
found, 126 if it could not be executed; 1 if the kernel refused, 2 wrong usage.`,
		Example: `  nslab setns 4242                         a shell where process 4242 is
  nslab setns 4242 --net ip addr           its network, with our programs
  nslab setns 4242 --pid --mount ps        its processes
  nslab setns /proc/4242/ns/net ip addr    its network, by the file
  nslab setns /run/netns/blue ip addr      one that 'ip netns add' made`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, command, err := o.parse(cmd, args)
			if errors.Is(err, pflag.ErrHelp) {
				return cmd.Help()
			}
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), target, command)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // the flags of COMMAND are its own
	for _, f := range []struct{ name, letter, kind, usage string }{
		{"cgroup", "C", "cgroup", "enter the cgroup namespace (names it sees, not its limits)"},
		{"ipc", "i", "ipc", "enter the IPC namespace"},
		{"mount", "m", "mnt", "enter the mount namespace"},
		{"net", "n", "net", "enter the network namespace"},
		{"pid", "p", "pid", "enter the PID namespace"},
		{"time", "T", "time", "enter the time namespace"},
		{"user", "U", "user", "enter the user namespace, as its root"},
		{"uts", "u", "uts", "enter the UTS namespace (host name)"},
	} {
		o.kinds[f.kind] = flags.BoolP(f.name, f.letter, false, f.usage)
	}
	flags.BoolVarP(&o.all, "all", "a", false, "enter all namespaces")
	flags.BoolVarP(&o.root, "root", "r", false, "take the root folder of the process")
	flags.BoolVarP(&o.cwd, "cwd", "w", false, "take the working folder of the process")
	return cmd
}

// parse finds the target, the flags, which may stand on either side of it, and the command.
func (o *setnsOptions) parse(cmd *cobra.Command, args []string) (target string, command []string, err error) {
	if len(args) == 0 {
		return "", nil, usageError("'nslab setns --help' shows examples", "setns takes a process number or a namespace file")
	}
	target = args[0]
	if err := cmd.Flags().Parse(args[1:]); err != nil {
		return "", nil, cmd.FlagErrorFunc()(cmd, err)
	}
	if cmd.Flags().Changed("help") {
		return "", nil, pflag.ErrHelp
	}
	command = cmd.Flags().Args()
	if len(command) == 0 {
		command = []string{shell()}
	}
	return target, command, nil
}

// flags is which namespaces of a process were asked for.
func (o *setnsOptions) flags() (flags uintptr) {
	for _, k := range setns.Kinds() {
		if *o.kinds[k.Name] || o.all {
			flags |= k.Flag
		}
	}
	return flags
}

func shell() string {
	if s := os.Getenv("SHELL"); s != "" {
		return s
	}
	return "/bin/sh"
}

// run enters and waits for the command.
func (o *setnsOptions) run(ctx context.Context, target string, command []string) error {
	if ctx == nil {
		ctx = context.Background()
	}
	cfg := setns.Config{
		Namespaces: o.flags(), Root: o.root, Cwd: o.cwd,
		Path: command[0], Args: command, Env: os.Environ(), Pdeathsig: syscall.SIGKILL,
	}
	closeTarget, err := o.open(ctx, target, &cfg)
	if err != nil {
		return explain(err)
	}
	defer closeTarget()
	// What the terminal sends goes to the command too, which is in the same process group; it decides. What somebody
	// sends to nslab is passed on. Notify, and not Ignore: what is ignored would stay so for the command.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP)
	p, err := setns.Start(ctx, cfg)
	if err != nil {
		return explain(err)
	}
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM || s == syscall.SIGHUP {
				p.Signal(ctx, s.(syscall.Signal))
			}
		}
	}()
	status, err := p.Wait(ctx)
	if err != nil {
		return err
	}
	switch {
	case status.Signaled():
		return &statusError{status: exitSignal + int(status.Signal())}
	case status.ExitStatus() != 0:
		return &statusError{status: status.ExitStatus()}
	}
	return nil
}

// open takes hold of what target names, a process or a file.
func (o *setnsOptions) open(ctx context.Context, target string, cfg *setns.Config) (closeTarget func() error, err error) {
	pid, err := strconv.Atoi(target)
	if err != nil { // no number: a file
		if cfg.Namespaces != 0 || cfg.Root || cfg.Cwd {
			return nil, usageError("leave them out: a file holds one namespace, and the kernel knows of which kind",
				"flags need a process number, but %q is a file", target)
		}
		f, _, err := setns.OpenFile(ctx, target)
		if err != nil {
			return nil, err
		}
		cfg.Files = []*os.File{f}
		return f.Close, nil
	}
	if pid <= 0 {
		return nil, usageError("'ps' shows the numbers", "%q is no process number", target)
	}
	if cfg.Namespaces == 0 && !cfg.Root && !cfg.Cwd {
		cfg.Namespaces, cfg.Root, cfg.Cwd = setns.All, true, true
	}
	t, err := setns.Open(ctx, pid)
	if err != nil {
		return nil, err
	}
	cfg.Target = t
	return t.Close, nil
}

// explain gives an error of the stage its exit status, and the remedy of the first condition that does not hold.
func explain(err error) error {
	var refused *setns.Error
	if !errors.As(err, &refused) {
		return err
	}
	s := &statusError{status: exitFailed, err: err}
	if refused.Op == "execve" {
		s.status = exitNotExecutable
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			s.status = exitNotFound
			s.hint = "it was looked for inside, where the programs may be others"
		}
		return s
	}
	if s.hint = diagnosis.Remedy(err); s.hint == "" && errors.Is(err, setns.ErrOutside) {
		s.hint = "give --root and --mount too, or leave --cwd out"
	}
	return s
}

// completeTarget offers the processes that are in other namespaces than we are; then our flags, until the command begins.
func completeTarget(cmd *cobra.Command, args []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 && strings.HasPrefix(start, "-") && !slices.ContainsFunc(args[1:], isWord) {
		var list []cobra.Completion
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			list = append(list, cobra.CompletionWithDesc("--"+f.Name, f.Usage))
		})
		return list, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) > 0 || strings.HasPrefix(start, "/") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	pids, err := evidence.Pids("/proc")
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var list []cobra.Completion
	for _, pid := range pids {
		var other []string
		for _, k := range setns.Kinds() {
			own, err := evidence.Namespace(os.Getpid(), k.Name)
			its, err2 := evidence.Namespace(pid, k.Name)
			if err == nil && err2 == nil && own != its {
				other = append(other, k.Name)
			}
		}
		if len(other) > 0 {
			name, _ := evidence.Command(pid)
			list = append(list, cobra.CompletionWithDesc(strconv.Itoa(pid), fmt.Sprintf("%s (%s)", name, strings.Join(other, " "))))
		}
	}
	return list, cobra.ShellCompDirectiveDefault
}

func isWord(arg string) bool { return !strings.HasPrefix(arg, "-") }
