package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/build"
	"github.com/nslab/nslab/engine/build/files"
	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/dockerfile"
)

// buildFlags are the flags of `image build`, those of Docker.
type buildFlags struct {
	file, target, progress, iidfile string
	tags, noCacheFilter             []string
	args, labels, addHost, secrets  *opts.List
	dns, dnsOption, dnsSearch       *opts.List
	noCache, squash, quiet, pull    bool
	network, platform               *opts.Word
	cgroupParent                    *opts.Word
	shmSize, memory, memorySwap     opts.Bytes
	cpuPeriod, cpuQuota, cpuShares  int64
	cpusetCpus, cpusetMems          string
	ulimit                          opts.Ulimits
}

func newImageBuildCmd(g *globals) *cobra.Command {
	f := &buildFlags{}
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH|URL|-",
		Short: "Build an image from a Dockerfile",
		Long: `Build an image from a Dockerfile and the files beside it, the context. With -
standard input is a Dockerfile, or an archive with one in it.

Each RUN is executed in a container, confined as by 'container run'. What an
instruction has made is remembered: if it is the same the next time, with the
same files and arguments, it is not done again (CACHED). 'system prune'
forgets it. With SOURCE_DATE_EPOCH set, nothing in the image is younger, and
the same input gives the same image.

What happens is shown on standard error. With -q there is only the image's id,
on standard output.`,
		Example: `  nslab image build -t web .
  nslab image build -t web:test -f test/Dockerfile --target test .
  nslab image build --secret id=token,src=$HOME/.token --no-cache .
  git archive HEAD | nslab image build -t web -`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.options(args[0])
			if err != nil {
				return err
			}
			return buildImage(g, f, o)
		},
	}
	f.add(cmd.Flags())
	if completing() {
		cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions([]string{"auto", "plain", "tty", "quiet"}, cobra.ShellCompDirectiveNoFileComp))
		cmd.RegisterFlagCompletionFunc("network", cobra.FixedCompletions([]string{"default", "none", "host"}, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func (f *buildFlags) add(flags *pflag.FlagSet) {
	a := adder{flags}
	flags.StringVarP(&f.file, "file", "f", "", `Name of the Dockerfile (default "PATH/Dockerfile"); - is standard input`)
	flags.StringArrayVarP(&f.tags, "tag", "t", nil, `Name and optionally a tag (format: "name:tag")`)
	flags.StringVar(&f.target, "target", "", "Set the target build stage to build")
	f.args = a.list("build-arg", "", "Set build-time variables", nil)
	f.labels = a.list("label", "", "Set metadata for an image", opts.Label)
	f.secrets = a.list("secret", "", `Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")`, nil)
	flags.BoolVar(&f.noCache, "no-cache", false, "Do not use cache when building the image")
	flags.StringArrayVar(&f.noCacheFilter, "no-cache-filter", nil, "Do not cache specified stages")
	flags.BoolVar(&f.squash, "squash", false, "Squash newly built layers into a single new layer")
	flags.BoolVar(&f.pull, "pull", false, "Always attempt to pull a newer version of the base images")
	f.platform = a.word("platform", "", "", "Set target platform for the build", opts.Platform)
	flags.StringVar(&f.progress, "progress", "auto", "Set type of progress output (auto, plain, tty, quiet)")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	flags.StringVar(&f.iidfile, "iidfile", "", "Write the image ID to the file")
	f.network = a.word("network", "", "default", "Set the networking mode for the RUN instructions during build", opts.NetworkMode)
	f.addHost = a.list("add-host", "", `Add a custom host-to-IP mapping (format: "host:ip")`, opts.ExtraHost)
	f.dns = a.list("dns", "", "Set custom DNS servers", opts.IP)
	f.dnsOption = a.list("dns-option", "", "Set DNS options", opts.Line)
	f.dnsSearch = a.list("dns-search", "", "Set custom DNS search domains", opts.Line)
	f.shmSize.NotZero, f.memory.NotZero, f.memorySwap.Infinite = true, true, true
	flags.Var(&f.shmSize, "shm-size", `Size of "/dev/shm"`)
	flags.VarP(&f.memory, "memory", "m", "Memory limit")
	flags.Var(&f.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	flags.Int64Var(&f.cpuPeriod, "cpu-period", 0, "Limit the CPU CFS (Completely Fair Scheduler) period")
	flags.Int64Var(&f.cpuQuota, "cpu-quota", 0, "Limit the CPU CFS (Completely Fair Scheduler) quota")
	flags.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	flags.StringVar(&f.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	flags.StringVar(&f.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.cgroupParent = a.word("cgroup-parent", "", "", `Set the parent cgroup for the "RUN" instructions during build`, opts.CgroupParent)
	flags.Var(&f.ulimit, "ulimit", "Ulimit options")
	for _, name := range []string{"rm", "force-rm", "compress"} { // Docker's, of which there is nothing to do here
		flags.Bool(name, true, "")
		flags.MarkHidden(name)
	}
}

// options turns flags into what a build is told.
func (f *buildFlags) options(source string) (o build.Options, err error) {
	o = build.Options{
		Context: files.Options{Source: source, File: f.file, Stdin: os.Stdin},
		Tags:    f.tags, Target: f.target, Args: map[string]string{}, Labels: opts.Pairs(f.labels.Values()),
		Platform: f.platform.String(), NoCache: f.noCache, NoCacheFilter: f.noCacheFilter, Squash: f.squash,
		Network: f.network.String(), Always: f.pull, Warn: warn,
	}
	for _, a := range f.args.Values() {
		name, value, has := strings.Cut(a, "=")
		if name == "" {
			return o, &statusError{exitEngine, fmt.Errorf("--build-arg %s: the name is empty", a), "it is written NAME=VALUE, or NAME for the value of a variable"}
		}
		if !has { // from our own environment, if it is there
			if value, has = os.LookupEnv(name); !has {
				continue
			}
		}
		o.Args[name] = value
	}
	if o.Secrets, err = parseSecrets(f.secrets.Values()); err != nil {
		return o, err
	}
	for _, t := range f.tags {
		if n, err := image.ParseName(t); err != nil || n.Digest != "" {
			if err == nil {
				err = &image.ReferenceError{Ref: t, Why: "refusing to create a tag with a digest reference"}
			}
			return o, imageError(withStatus(exitEngine, fmt.Errorf("--tag: %w", err)))
		}
	}
	if !strings.Contains("auto plain tty quiet", f.progress) || f.progress == "" {
		return o, &statusError{exitEngine, fmt.Errorf("--progress: %q is not known", f.progress), "it is auto, plain, tty or quiet"}
	}
	created, err := sourceDate()
	if text, ok := o.Args["SOURCE_DATE_EPOCH"]; ok {
		created, err = parseSourceDate(text)
	}
	if err != nil {
		return o, err
	}
	if _, ok := o.Args["SOURCE_DATE_EPOCH"]; ok || os.Getenv("SOURCE_DATE_EPOCH") != "" {
		o.Epoch = &created
	}
	o.HostConfig, err = f.hostConfig()
	return o, err
}

func (f *buildFlags) hostConfig() (h engine.HostConfig, err error) {
	h = engine.HostConfig{
		ExtraHosts: f.addHost.Values(), DNS: f.dns.Values(), DNSOptions: f.dnsOption.Values(), DNSSearch: f.dnsSearch.Values(),
		ShmSize: f.shmSize.N,
		Resources: engine.Resources{
			Memory: f.memory.N, MemorySwap: f.memorySwap.N, CPUPeriod: f.cpuPeriod, CPUQuota: f.cpuQuota,
			CPUShares: f.cpuShares, CpusetCpus: f.cpusetCpus, CpusetMems: f.cpusetMems, CgroupParent: f.cgroupParent.String(),
			Ulimits: f.ulimit.Values(),
		},
	}
	return h, withStatus(exitEngine, opts.CheckResources(&h.Resources, opts.ThisMachine(), false))
}

// parseSecrets reads --secret id=ID[,src=FILE|,env=NAME]. Without either it is the variable ID or, if there is none, the file.
func parseSecrets(list []string) (map[string]build.Secret, error) {
	secrets := map[string]build.Secret{}
	for _, text := range list {
		fail := func(why string) error {
			return &statusError{exitEngine, fmt.Errorf("--secret %s: %s", text, why), "it is written id=NAME,src=FILE or id=NAME,env=VARIABLE"}
		}
		fields, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			return nil, fail("it is no list")
		}
		var id string
		var s build.Secret
		for _, field := range fields {
			key, value, ok := strings.Cut(field, "=")
			if !ok {
				return nil, fail("invalid field '" + field + "' must be a key=value pair")
			}
			switch strings.ToLower(key) {
			case "id":
				id = value
			case "src", "source":
				s.File = value
			case "env":
				s.Env = value
			case "type":
				if value != "file" && value != "env" {
					return nil, fail("unsupported secret type " + value)
				}
				if value == "env" && s.Env == "" {
					s.Env, s.File = s.File, ""
				}
			default:
				return nil, fail("unexpected key '" + key + "'")
			}
		}
		if id == "" {
			return nil, fail("there is no id")
		}
		if s.File == "" && s.Env == "" {
			if _, ok := os.LookupEnv(id); ok {
				s.Env = id
			} else {
				s.File = id
			}
		}
		secrets[id] = s
	}
	return secrets, nil
}

func buildImage(g *globals, f *buildFlags, o build.Options) (err error) {
	e, err := g.engine()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	p, err := newBuildProgress(f.progress, f.quiet)
	if err != nil {
		return err
	}
	o.Progress = p
	o.Pull = func(ctx context.Context, ref, platform string, progress func(image.Progress)) error {
		if _, err := image.ParseName(ref); err != nil || strings.HasPrefix(ref, "sha256:") {
			return &image.NotFoundError{Ref: ref} // an id, which no registry knows
		}
		return pullFor(ctx, g, ref, pullOptions{quiet: true, verify: true, platform: platform, progress: progress})
	}
	i, err := build.Build(ctx, e, o)
	p.close(err)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return interrupted(cause)
	}
	if err != nil {
		return buildError(err)
	}
	if f.iidfile != "" {
		if err := os.WriteFile(f.iidfile, []byte(i.ID), 0o644); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if f.quiet || f.progress == "quiet" {
		fmt.Println(i.ID)
	}
	return nil
}

// buildError shows the lines of the Dockerfile that an error is about, and finds its hint.
func buildError(err error) error {
	var located *dockerfile.Error
	if errors.As(err, &located) {
		fmt.Fprint(os.Stderr, located.Excerpt())
	}
	hint := ""
	var file *files.Error
	var stage *build.StageError
	var unknown *dockerfile.UnknownError
	var command *build.CommandError
	switch {
	case errors.As(err, &file):
		hint = file.Remedy()
	case errors.As(err, &stage):
		hint = stage.Hint()
	case errors.As(err, &unknown) && unknown.Near != "":
		hint = "did you mean " + unknown.Near + "?"
	case errors.As(err, &command):
		hint = commandHint(command)
	}
	if hint != "" {
		return &statusError{exitFailed, err, hint}
	}
	return imageError(err)
}

// commandHint says what a status usually means.
func commandHint(e *build.CommandError) string {
	switch e.Status {
	case 127:
		return "the image has no such command, or no such interpreter; a FROM scratch has no shell"
	case 126:
		return "the command is there, but cannot be executed"
	case 137:
		return "it was killed, perhaps for its memory"
	}
	return ""
}
