package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
)

// systemInfo is what templates and JSON see: with what Docker calls the client, which here is all there is.
type systemInfo struct {
	*engine.Info
	ClientInfo clientInfo
}

type clientInfo struct {
	Debug                        bool
	Version, GoVersion, Os, Arch string
	Context                      string
	Plugins, Warnings            []string
}

func newSystemInfoCmd(g *globals) *cobra.Command {
	var template string
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Display what there is, and what this machine can do",
		Long: `Display how many containers and images there are, where they are kept, and what
this machine can do. What it cannot is a warning. There is no daemon: the part
that is called Server, as Docker has it, is nslab as well.`,
		Example: `  nslab system info
  nslab system info -f '{{.CgroupVersion}} {{.NCPU}}'
  nslab system info -f json`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text := template
			if text == "json" {
				text = "{{json .}}"
			}
			show, err := format.NewInspector(text)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				info, err := e.Info(ctx, buildVersion())
				if text == "" {
					return errors.Join(printInfo(cmd.OutOrStdout(), cmd.ErrOrStderr(), info), err)
				}
				addErr := show.Add(systemInfo{info, clientInfo{
					Version: buildVersion(), GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, Context: "default", Plugins: []string{},
				}})
				if addErr != nil {
					return withStatus(exitFailed, addErr)
				}
				return errors.Join(show.Flush(cmd.OutOrStdout()), err)
			})
		},
	}
	cmd.Flags().StringVarP(&template, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`)
	return cmd
}

// printInfo has Docker's layout: scripts look for its lines.
func printInfo(out, warnings io.Writer, i *engine.Info) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Client:")
	line(" Version:    %s", i.ServerVersion)
	line(" Context:    default")
	line(" Debug Mode: %t", i.Debug)
	line("\nServer:")
	line(" Containers: %d", i.Containers)
	line("  Running: %d", i.ContainersRunning)
	line("  Paused: %d", i.ContainersPaused)
	line("  Stopped: %d", i.ContainersStopped)
	line(" Images: %d", i.Images)
	line(" Server Version: %s", i.ServerVersion)
	line(" Storage Driver: %s", i.Driver)
	for _, pair := range i.DriverStatus {
		line("  %s: %s", pair[0], pair[1])
	}
	line(" Logging Driver: %s", i.LoggingDriver)
	line(" Cgroup Driver: %s", i.CgroupDriver)
	line(" Cgroup Version: %s", i.CgroupVersion)
	line(" Plugins:")
	line("  Volume: %s", strings.Join(i.Plugins.Volume, " "))
	line("  Network: %s", strings.Join(i.Plugins.Network, " "))
	line("  Log: %s", strings.Join(i.Plugins.Log, " "))
	line(" Swarm: %s", i.Swarm.LocalNodeState)
	line(" Runtimes: nslab")
	line(" Default Runtime: %s", i.DefaultRuntime)
	line(" Init Binary: %s", i.InitBinary)
	line(" Security Options:")
	for _, option := range i.SecurityOptions {
		name, rest, _ := strings.Cut(strings.TrimPrefix(option, "name="), ",")
		line("  %s", name)
		if profile, ok := strings.CutPrefix(rest, "profile="); ok {
			line("   Profile: %s", profile)
		}
	}
	line(" Kernel Version: %s", i.KernelVersion)
	line(" Operating System: %s", i.OperatingSystem)
	line(" OSType: %s", i.OSType)
	line(" Architecture: %s", i.Architecture)
	line(" CPUs: %d", i.NCPU)
	line(" Total Memory: %s", format.Bytes(uint64(i.MemTotal)))
	line(" Name: %s", i.Name)
	line(" Root Dir: %s", i.DockerRootDir)
	line(" Run Root Dir: %s", i.RunRootDir)
	line(" Debug Mode: %t", i.Debug)
	line(" Experimental: false")
	line(" Live Restore Enabled: %t\n", i.LiveRestoreEnabled)
	if _, err := io.WriteString(out, b.String()); err != nil {
		return err
	}
	for _, w := range i.Warnings {
		fmt.Fprintln(warnings, w)
	}
	return nil
}
