package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/nslab/nslab/engine"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// parseRun does what `container run` does with its command line.
func parseRun(args ...string) (*request, error) {
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f := addRunFlags(flags, true)
	if err := flags.Parse(args); err != nil {
		return nil, oneLine(err)
	}
	return f.request(flags, flags.Args())
}

func TestRequest(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile(filepath.Join(dir, "env"), []byte("A=file\nB=file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	type list = []any
	for line, see := range map[string]func(c *engine.Config, h *engine.HostConfig, r *request) (got, want any){
		"image": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) { return c.Image, "image" },
		"image -d --rm": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return c.Cmd, []string{"-d", "--rm"}
		},
		"-- image x": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) { return c.Cmd, []string{"x"} },
		"--rm image sh -c x": func(c *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return list{h.AutoRemove, len(c.Cmd)}, list{true, 3}
		},
		"-it image": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return list{c.OpenStdin, c.Tty, c.StdinOnce, c.AttachStdin}, list{true, true, true, true}
		},
		"-itd image": func(c *engine.Config, _ *engine.HostConfig, r *request) (any, any) {
			return list{r.Detach, c.OpenStdin, c.StdinOnce, c.AttachStdout}, list{true, true, false, false}
		},
		"-a stderr image": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return list{c.AttachStdin, c.AttachStdout, c.AttachStderr}, list{false, false, true}
		},
		"--sig-proxy=false image": func(_ *engine.Config, _ *engine.HostConfig, r *request) (any, any) { return r.SigProxy, false },
		"--detach-keys ctrl-a,b image": func(_ *engine.Config, _ *engine.HostConfig, r *request) (any, any) {
			return string(r.DetachKeys), "\x01b"
		},
		"--name /web image": func(_ *engine.Config, _ *engine.HostConfig, r *request) (any, any) { return r.Name, "web" },
		"-e B=1 --env-file env -e A= i": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return c.Env, []string{"A=file", "B=file", "B=1", "A="}
		},
		"-l a -l b=c image": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return c.Labels, map[string]string{"a": "", "b": "c"}
		},
		"--entrypoint= image x": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) { return c.Entrypoint, []string{""} },
		"--entrypoint /x image": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return c.Entrypoint, []string{"/x"}
		},
		"-h box -u 1:2 -w /x i": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return list{c.Hostname, c.User, c.WorkingDir}, list{"box", "1:2", "/x"}
		},
		"--stop-timeout 0 image": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) { return *c.StopTimeout, 0 },
		"-m 64m --memory-swap -1 i": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return []int64{h.Memory, h.MemorySwap}, []int64{64 << 20, -1}
		},
		"--cpus .5 -c 512 image": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return []int64{h.NanoCPUs, h.CPUShares}, []int64{5e8, 512}
		},
		"--pids-limit 0 image": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) { return *h.PidsLimit, int64(0) },
		"--ulimit nofile=1:2 i": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.Ulimits, []engine.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}
		},
		"--net none image": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) { return h.NetworkMode, "none" },
		"--cap-add net_admin i": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.CapAdd, []string{"CAP_NET_ADMIN"}
		},
		"--tmpfs /t:size=1m image": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.Tmpfs, map[string]string{"/t": "size=1m"}
		},
		"--log-opt max-size=1k i": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.LogConfig, engine.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1k"}}
		},
		"-v /anon -v /anon image": func(c *engine.Config, _ *engine.HostConfig, _ *request) (any, any) {
			return c.Volumes, map[string]struct{}{"/anon": {}}
		},
		"-v ./x:/y:ro image": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.Binds, []string{dir + "/x:/y:ro"}
		},
		"-v vol:/y -v vol:/y -v /a:/b i": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.Binds, []string{"vol:/y", "/a:/b"}
		},
		"--mount type=tmpfs,dst=/t i": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.Mounts, []volumes.Mount{{Type: "tmpfs", Target: "/t"}}
		},
		"--security-opt systempaths=unconfined image": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return list{h.MaskedPaths, h.ReadonlyPaths, len(h.SecurityOpt)}, list{[]string{}, []string{}, 0}
		},
		"--device-write-iops /dev/vda:5 image": func(_ *engine.Config, h *engine.HostConfig, _ *request) (any, any) {
			return h.BlkioWriteIOps, []engine.ThrottleDevice{{Path: "/dev/vda", Rate: 5}}
		},
	} {
		r, err := parseRun(strings.Fields(line)...)
		if err != nil {
			t.Errorf("run %s: %v", line, err)
			continue
		}
		if got, want := see(&r.Config, &r.Host, r); !reflect.DeepEqual(got, want) {
			t.Errorf("run %s: %#v; want %#v", line, got, want)
		}
	}
}

// What `inspect` shows of a container of which nothing was said, as Docker shows it.
func TestRequestDefaults(t *testing.T) {
	r, err := parseRun("image")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(r.Host)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Binds": "null", "NetworkMode": `"default"`, "RestartPolicy": `{"MaximumRetryCount":0,"Name":"no"}`,
		"LogConfig": `{"Config":{},"Type":"json-file"}`, "CapAdd": "null", "Dns": "[]", "DnsSearch": "[]", "ExtraHosts": "null",
		"GroupAdd": "null", "SecurityOpt": "null", "Devices": "[]", "BlkioDeviceReadBps": "[]", "BlkioWeightDevice": "[]",
		"Ulimits": "[]", "PidsLimit": "null", "OomKillDisable": "false", "MemorySwappiness": "null", "DeviceCgroupRules": "null",
	} {
		if is, _ := json.Marshal(got[name]); string(is) != want {
			t.Errorf("%s is %s; want %s", name, is, want)
		}
	}
	if !r.SigProxy || r.Detach || r.DetachKeys != nil || r.Host.Pull != "missing" || r.Config.Cmd != nil || r.Config.Env != nil {
		t.Errorf("run image: %+v", r)
	}
}

func TestRequestRefused(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for line, want := range map[string]string{
		"--foo image":                          "unknown flag: --foo",
		"-itx image":                           "unknown shorthand flag: 'x' in -x",
		"-m":                                   "flag needs an argument: 'm' in -m",
		"-m nonsense image":                    `invalid argument "nonsense" for "-m, --memory" flag: invalid size: 'nonsense'`,
		"-m 0 image":                           `invalid argument "0" for "-m, --memory" flag: invalid size: '0': must be more than 0`,
		"-m 1000000g image":                    "--memory: ",
		"--cpus 99999 image":                   "--cpus: range of CPUs is from 0.01 to ",
		"--blkio-weight 70000 image":           `invalid argument "70000" for "--blkio-weight" flag: `,
		"--name ../../x image":                 `invalid argument "../../x" for "--name" flag: invalid container name (../../x)`,
		"-p 80:x image":                        `invalid argument "80:x" for "-p, --publish" flag: `,
		"-p 70000:80 image":                    `invalid argument "70000:80" for "-p, --publish" flag: `,
		"--restart always image":               `invalid argument "always" for "--restart" flag: restart policy 'always' needs a daemon`,
		"-v rel/path:/x image":                 "--volume: 07-volumes: invalid volume",
		"-v : image":                           "--volume: 07-volumes: ",
		"-v /a:/x -v /b:/x image":              "07-volumes: two mounts on /x",
		"-v /a:/x --tmpfs /x image":            "07-volumes: two mounts on /x",
		"-v /x --mount type=tmpfs,dst=/x i":    "07-volumes: two mounts on /x",
		"--mount nonsense image":               "--mount: 07-volumes: ",
		"-d -a stdout image":                   "conflicting options: cannot specify both --attach and --detach",
		"--env-file /nosuch image":             "--env-file: open /nosuch: no such file or directory",
		"--security-opt nonsense image":        `--security-opt: invalid option: "nonsense"`,
		"--log-opt nonsense image":             "--log-opt: unknown log opt 'nonsense'",
		"--detach-keys nonsense image":         "--detach-keys: invalid detach keys (nonsense)",
		"--network container:a -h box image":   "--hostname: conflicting options",
		"--oom-score-adj 1001 image":           "--oom-score-adj: invalid value 1001",
		"--stop-timeout nonsense image":        `invalid argument "nonsense" for "--stop-timeout" flag: `,
		"--health-cmd true image":              `invalid argument "true" for "--health-cmd" flag: nslab has no health checks`,
		"--rm=maybe image":                     `invalid argument "maybe" for "--rm" flag: `,
		"--ulimit nofile=2:1 image":            `invalid argument "nofile=2:1" for "--ulimit" flag: ulimit soft limit must be less`,
		"--sysctl net.a=1 --net=host image":    "--sysctl: sysctl 'net.a' not allowed in host network namespace",
		"--cidfile x --platform a/b/c/d image": `invalid argument "a/b/c/d" for "--platform" flag: `,
	} {
		r, err := parseRun(strings.Fields(line)...)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("run %s: %+v, %v; want %s", line, r, err, want)
			continue
		}
		// What pflag says gets its status from the noun's flag error function, TestNoun.
		var s *statusError
		if errors.As(err, &s) && s.status != exitEngine && !strings.Contains(line, "-d -a") {
			t.Errorf("run %s: status %d; want %d", line, s.status, exitEngine)
		}
	}
	for _, args := range [][]string{{""}, {}, {"-e", "image"}} {
		if _, err := parseRun(args...); err == nil {
			t.Errorf("run %q is not refused", args)
		}
	}
	if _, err := parseRun("--a\nb"); err == nil || err.Error() != `unknown flag: --a\nb` {
		t.Errorf("a flag of two lines: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("something was made: %v, %v", left, err)
	}
}

// Flags that nslab lacks are not shown, and all that are shown say what they do. -h is not the help.
func TestRunFlagsHelp(t *testing.T) {
	for _, run := range []bool{true, false} {
		flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
		addRunFlags(flags, run)
		flags.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Usage == "" {
				t.Errorf("--%s has no help", f.Name)
			}
		})
		help := flags.FlagUsages()
		if !strings.Contains(help, "-p, --publish list") || strings.Contains(help, "map[]") || !strings.Contains(help, "-h, --hostname string") {
			t.Errorf("the help:\n%s", help)
		}
		if got := flags.Lookup("detach") != nil; got != run {
			t.Errorf("--detach of run is there: %v; want %v", got, run)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{"-it --rm image sh", "-m 1g image", "-v /a:/b image", "--mount type=bind,src=/a,dst=/b image"} {
		f.Add(strings.ReplaceAll(s, " ", "\x00"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "file") || strings.Contains(line, "seccomp") { // which reads whatever is named
			return
		}
		if _, err := parseRun(append(strings.Split(line, "\x00"), "image")...); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: an error of more than one line: %v", line, err)
		}
	})
}

func BenchmarkRunFlags(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		addRunFlags(pflag.NewFlagSet("run", pflag.ContinueOnError), true)
	}
}

func BenchmarkRequest(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseRun("-it", "--rm", "-e", "A=1", "-v", "/a:/b", "image", "sh"); err != nil {
			b.Fatal(err)
		}
	}
}
