package main

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// request is a container that somebody wants to have: what `container run` and `create` make of their flags.
type request struct {
	Name   string // empty for one that nslab invents
	Config engine.Config
	Host   engine.HostConfig
	Nets   []engine.EndpointOptions

	Detach     bool
	SigProxy   bool
	DetachKeys []byte // nil for the usual ones
	Quiet      bool   // nothing about pulling
	Explain    bool
}

// request checks all that can be known without the image, and makes nothing: a mistake anywhere leaves nothing behind.
func (f *runFlags) request(flags *pflag.FlagSet, args []string) (*request, error) {
	r := &request{Name: f.name.String(), Detach: f.detach, SigProxy: f.sigProxy, Quiet: f.quiet, Explain: f.explain}
	var err error
	if r.DetachKeys, err = opts.DetachKeys(f.detachKeys); err != nil {
		return nil, refuse("for example ctrl-p,ctrl-q", "--detach-keys: %w", err)
	}
	for _, part := range []func(*pflag.FlagSet, *request) error{f.config, f.host, f.networks, f.mounts, f.resources} {
		if err := part(flags, r); err != nil {
			return nil, withStatus(exitEngine, err)
		}
	}
	if len(args) == 0 || args[0] == "" {
		return nil, refuse("'nslab image ls' shows those there are", "the image has no name")
	}
	if r.Config.Image = args[0]; len(args) > 1 {
		r.Config.Cmd = args[1:]
	}
	return r, withStatus(exitEngine, opts.Check(&r.Config, &r.Host, opts.ThisMachine()))
}

// config fills in what would be the same on any machine.
func (f *runFlags) config(flags *pflag.FlagSet, r *request) error {
	env, err := opts.EnvFiles(f.envFile.Values())
	if err != nil {
		return err
	}
	labels, err := opts.LabelFiles(f.labelFile.Values())
	if err != nil {
		return err
	}
	attach := f.attach.Values()
	all := len(attach) == 0
	r.Config = engine.Config{
		Hostname: f.hostname.String(), Domainname: f.domainname.String(), User: f.user.String(),
		Tty: f.tty, OpenStdin: f.interactive,
		AttachStdin:  f.interactive || slices.Contains(attach, "stdin"),
		AttachStdout: all || slices.Contains(attach, "stdout"),
		AttachStderr: all || slices.Contains(attach, "stderr"),
		Env:          append(env, f.env.Values()...), // those of the command line come last, and win
		WorkingDir:   f.workdir.String(), StopSignal: f.stopSignal.String(),
		Labels: opts.Pairs(append(labels, f.label.Values()...)),
	}
	if f.detach {
		if !all {
			return &statusError{exitFailed, fmt.Errorf("conflicting options: cannot specify both --attach and --detach"), "give one of them"}
		}
		r.Config.AttachStdin, r.Config.AttachStdout, r.Config.AttachStderr = false, false, false
	}
	// Who is attached and goes away takes the container's standard input along.
	r.Config.StdinOnce = f.interactive && r.Config.AttachStdin
	if flags.Changed("entrypoint") {
		r.Config.Entrypoint = []string{f.entrypoint} // "" takes the image's away
	}
	if flags.Changed("stop-timeout") {
		r.Config.StopTimeout = &f.stopTimeout
	}
	return nil
}

// host fills in what is about this machine, but for mounts and limits.
func (f *runFlags) host(flags *pflag.FlagSet, r *request) error {
	logs, err := opts.LogConfig(f.logDriver.String(), f.logOpt.Values())
	if err != nil {
		return err
	}
	security, err := opts.SecurityOpts(f.securityOpt.Values())
	if err != nil {
		return err
	}
	r.Host = engine.HostConfig{
		ContainerIDFile: f.cidfile, LogConfig: logs, AutoRemove: f.rm,
		RestartPolicy: engine.RestartPolicy{Name: f.restart.String()},
		CapAdd:        f.capAdd.Values(), CapDrop: f.capDrop.Values(), ExtraHosts: f.addHost.Values(),
		DNS: notNil(f.dns), DNSOptions: notNil(f.dnsOption), DNSSearch: notNil(f.dnsSearch),
		GroupAdd: f.groupAdd.Values(), IpcMode: f.ipc.String(), PidMode: f.pid.String(), UTSMode: f.uts.String(),
		UsernsMode: f.userns.String(), CgroupnsMode: f.cgroupns.String(), Privileged: f.privileged,
		ReadonlyRootfs: f.readOnly, SecurityOpt: security.Opts, SeccompProfile: security.Profile,
		ShmSize: f.shmSize.N, Sysctls: f.sysctl.Values(), Init: f.init, OomScoreAdj: f.oomScoreAdj,
		Driver: f.driver.String(), Platform: f.platform.String(), Pull: f.pull.String(),
	}
	if security.Unconfined {
		r.Host.MaskedPaths, r.Host.ReadonlyPaths = []string{}, []string{} // none, where nil would be the usual ones
	}
	return nil
}

// networks fills in how the container is connected, and which ports of it are the host's.
func (f *runFlags) networks(_ *pflag.FlagSet, r *request) (err error) {
	r.Host.NetworkMode = "default"
	r.Nets = slices.Clone(f.network.Values())
	if len(r.Nets) > 0 {
		r.Host.NetworkMode = r.Nets[0].Network
	}
	// What is said without a network is meant for the first.
	ip, ip6, mac, aliases := f.ip.String(), f.ip6.String(), f.macAddress.String(), f.networkAlias.Values()
	if ip+ip6+mac != "" || len(aliases) > 0 {
		if len(r.Nets) == 0 {
			r.Nets = []engine.EndpointOptions{{Network: "default"}}
		}
		first := &r.Nets[0]
		if ip != "" {
			first.IPv4 = netip.MustParseAddr(ip)
		}
		if ip6 != "" {
			first.IPv6 = netip.MustParseAddr(ip6)
		}
		if mac != "" {
			first.MAC = mac
		}
		first.Aliases = append(slices.Clone(first.Aliases), aliases...)
	}
	r.Host.PublishAllPorts = f.publishAll
	exposed, bindings, err := opts.Ports(f.publish.Values())
	if err != nil {
		return err
	}
	more, err := opts.Exposed(f.expose.Values())
	if err != nil {
		return err
	}
	if maps.Copy(exposed, more); len(exposed) > 0 {
		r.Config.ExposedPorts = exposed
	}
	if len(bindings) > 0 {
		r.Host.PortBindings = bindings
	}
	return nil
}

// notNil is a list that is not nil, for what `inspect` shows as [].
func notNil(l *opts.List) []string { return append([]string{}, l.Values()...) }

// mounts fills in -v, --mount and --tmpfs.
func (f *runFlags) mounts(_ *pflag.FlagSet, r *request) error {
	r.Host.Tmpfs, r.Host.VolumesFrom = f.tmpfs.Values(), f.volumesFrom.Values()
	var places []volumes.Mount // all of them, to find two on one place
	for _, spec := range f.volume.Values() {
		if slices.Contains(r.Host.Binds, spec) {
			continue // the same again does no harm
		}
		m, err := volumes.ParseVolume(spec)
		if err != nil {
			return refuse("-v [HOST-PATH|NAME:]PATH[:OPTIONS]", "--volume: %w", err)
		}
		if m.Type == volumes.TypeVolume && m.Source == "" {
			if r.Config.Volumes == nil {
				r.Config.Volumes = map[string]struct{}{}
			}
			if _, twice := r.Config.Volumes[m.Target]; !twice {
				r.Config.Volumes[m.Target] = struct{}{}
				places = append(places, m)
			}
			continue
		}
		if source, rest, _ := strings.Cut(spec, ":"); m.Type == volumes.TypeBind && !filepath.IsAbs(source) {
			spec = m.Source + ":" + rest // as seen from where we are now
		}
		r.Host.Binds = append(r.Host.Binds, spec)
		r.Host.Mounts = append(r.Host.Mounts, m)
		places = append(places, m)
	}
	for _, spec := range f.mount.Values() {
		m, err := volumes.ParseMount(spec)
		if err != nil {
			return refuse("--mount type=bind|volume|tmpfs,source=…,target=…", "--mount: %w", err)
		}
		r.Host.Mounts = append(r.Host.Mounts, m)
		places = append(places, m)
	}
	for _, target := range slices.Sorted(maps.Keys(r.Host.Tmpfs)) {
		places = append(places, volumes.Mount{Target: target})
	}
	return volumes.Check(places)
}

// resources fills in the limits.
func (f *runFlags) resources(flags *pflag.FlagSet, r *request) error {
	r.Host.Resources = engine.Resources{
		CPUShares: f.cpuShares, Memory: f.memory.N, NanoCPUs: int64(f.cpus), CgroupParent: f.cgroupParent.String(),
		BlkioWeight: f.blkioWeight, BlkioWeightDevice: f.blkioWeightDevice.Values(),
		BlkioReadBps: f.readBps.Values(), BlkioWriteBps: f.writeBps.Values(),
		BlkioReadIOps: f.readIOps.Values(), BlkioWriteIOps: f.writeIOps.Values(),
		CPUPeriod: f.cpuPeriod, CPUQuota: f.cpuQuota,
		CPURealtimePeriod: f.cpuRtPeriod, CPURealtimeRuntime: f.cpuRtRuntime,
		CpusetCpus: f.cpusetCpus, CpusetMems: f.cpusetMems,
		Devices: f.device.Values(), DeviceCgroupRules: f.deviceRule.Values(),
		MemoryReservation: f.memoryReservation.N, MemorySwap: f.memorySwap.N, Ulimits: f.ulimit.Values(),
	}
	if f.swappiness != -1 {
		r.Host.MemorySwappiness = &f.swappiness
	}
	r.Host.OomKillDisable = &f.oomKillDisable
	if flags.Changed("pids-limit") {
		r.Host.PidsLimit = &f.pidsLimit
	}
	return nil
}
