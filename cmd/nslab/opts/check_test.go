package opts

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nslab/nslab/engine"
)

// file makes a file and returns its path.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEnvFiles(t *testing.T) {
	t.Setenv("HERE", "h")
	one := file(t, "one", "\ufeffA=1\n# a comment\n\n  B=two words \nC=\"quoted\"\nHERE\nNOT_HERE\nD=\nE==\n")
	got, err := EnvFiles([]string{one, file(t, "two", "A=2")})
	if want := []string{"A=1", "B=two words ", `C="quoted"`, "HERE=h", "D=", "E==", "A=2"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("EnvFiles: %q, %v; want %q", got, err, want)
	}
	if got, err := LabelFiles([]string{one}); err != nil || len(got) != 5 {
		t.Errorf("LabelFiles: %q, %v; want the five with a value", got, err)
	}
	for text, want := range map[string]string{
		"A=1\nA B=2\n":                       "variable 'A B' contains whitespaces",
		"=x":                                 "no variable name on line '=x'",
		"A=\xff":                             "invalid utf8 bytes at line 1: [65 61 255]",
		"A=\x00":                             "variable 'A' has a NUL character",
		"A\x1b=1":                            `variable 'A\x1b' has a character`,
		"A=" + strings.Repeat("x", 1<<17):    "token too long",
		strings.Repeat("A=1\n", maxFile/4+1): "larger than 4 MiB",
	} {
		_, err := EnvFiles([]string{file(t, "bad", text)})
		if err == nil || !strings.HasPrefix(err.Error(), "--env-file: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v; want --env-file: … %s", text, err, want)
		}
		oneLine(t, "--env-file", err)
	}
	for _, name := range []string{"/nosuch", t.TempDir()} {
		if _, err := EnvFiles([]string{name}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecurityOpts(t *testing.T) {
	profile := file(t, "ok.json", `{"defaultAction": "SCMP_ACT_ALLOW"}`)
	for _, c := range []struct {
		values []string
		want   Security
	}{
		{nil, Security{}},
		{[]string{"no-new-privileges", "label=disable"}, Security{Opts: []string{"no-new-privileges", "label=disable"}}},
		{[]string{"no-new-privileges:true", "apparmor:unconfined"}, Security{Opts: []string{"no-new-privileges=true", "apparmor=unconfined"}}},
		{[]string{"seccomp=unconfined", "systempaths=unconfined"}, Security{Opts: []string{"seccomp=unconfined"}, Unconfined: true}},
		{[]string{"seccomp=" + profile}, Security{Opts: []string{"seccomp=" + profile}, Profile: []byte(`{"defaultAction": "SCMP_ACT_ALLOW"}`)}},
		{[]string{"seccomp=" + profile, "seccomp=builtin"}, Security{Opts: []string{"seccomp=builtin"}}},
		{[]string{"no-new-privileges", "seccomp=unconfined", "no-new-privileges=0"}, Security{Opts: []string{"seccomp=unconfined", "no-new-privileges=false"}}},
	} {
		if got, err := SecurityOpts(c.values); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.values, got, err, c.want)
		}
	}
	for value, want := range map[string]string{
		"nonsense": `invalid option: "nonsense"`, "nonsense=1": `invalid option: "nonsense=1"`, "seccomp=": "invalid option", "seccomp=/nosuch": "no such file",
		"seccomp=" + file(t, "bad.json", "{nonsense"): "is no JSON", "no-new-privileges=x": "true or false", "apparmor=docker-default": "AppArmor",
		"label=type:x": "SELinux", "systempaths=x": "invalid option", "": "invalid option", "no-new-privileges\n": "printed",
	} {
		if _, err := SecurityOpts([]string{value}); err == nil || !strings.HasPrefix(err.Error(), "--security-opt: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want --security-opt: … %s", value, err, want)
		}
	}
}

func TestLogConfig(t *testing.T) {
	for _, c := range []struct {
		driver, options, want string
	}{
		{"", "", ""}, {"json-file", "max-size=10m max-file=3", ""}, {"none", "", ""},
		{"none", "max-size=1k", "invalid logging opts for driver none"}, {"", "nonsense", "unknown log opt 'nonsense' for json-file log driver"},
		{"", "max-size=0", "max-size must be a positive number"}, {"", "max-size=x", "max-size: invalid size: 'x'"}, {"", "max-size=1e30", "invalid size"},
		{"", "max-file=0", "max-file cannot be less than 1"}, {"", "max-file=x", "'x' is no number"}, {"", "max-size", "invalid size"},
	} {
		got, err := LogConfig(c.driver, strings.Fields(c.options))
		if c.want != "" {
			if err == nil || err.Error() != "--log-opt: "+c.want && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s %s: %v; want %s", c.driver, c.options, err, c.want)
			}
		} else if err != nil || got.Type == "" || len(got.Config) != len(strings.Fields(c.options)) {
			t.Errorf("%s %s: %+v, %v", c.driver, c.options, got, err)
		}
	}
}

// machine is one with two CPUs, one memory node and 2 GiB.
func machine(t *testing.T) Machine {
	t.Helper()
	proc := filepath.Dir(file(t, "proc/meminfo", "MemTotal:        2097152 kB\nMemFree:  1 kB\n"))
	sys := filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(file(t, "devices/system/cpu/online", "0-1\n")))))
	node := filepath.Join(sys, "devices/system/node")
	if err := errors.Join(os.Mkdir(node, 0o755), os.WriteFile(filepath.Join(node, "online"), []byte("0\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return Machine{Proc: proc, Sys: sys}
}

func TestCheck(t *testing.T) {
	m := machine(t)
	n := func(n int64) *int64 { return &n }
	const MiB = 1 << 20
	type (
		H = engine.HostConfig
		R = engine.Resources
	)
	for _, c := range []struct {
		config engine.Config
		host   engine.HostConfig
		want   string
	}{
		{want: ""},
		{host: H{Resources: R{Memory: 6 * MiB, MemorySwap: 6 * MiB, NanoCPUs: 2e9, CpusetCpus: "0-1", CpusetMems: "0", BlkioWeight: 10, PidsLimit: n(-1)}}},
		{host: H{Resources: R{Memory: 2048 * MiB, MemorySwap: -1, CPUQuota: -1, CPUPeriod: 1000, CPUShares: 2, CpusetCpus: "1,0,0-1"}}},
		{host: H{Resources: R{NanoCPUs: 1e7, MemorySwappiness: n(0)}, OomScoreAdj: -1000}},
		{host: H{Resources: R{Memory: 1}}, want: "--memory: minimum memory limit allowed is 6MB"},
		{host: H{Resources: R{Memory: 4096 * MiB}}, want: "--memory: 4GiB are more than this machine has, 2GiB"},
		{host: H{Resources: R{Memory: 10 * MiB, MemorySwap: 5 * MiB}}, want: "--memory-swap: minimum memoryswap"},
		{host: H{Resources: R{MemorySwap: 50 * MiB}}, want: "--memory-swap: you should always set the memory limit"},
		{host: H{Resources: R{Memory: 10 * MiB, MemoryReservation: 20 * MiB}}, want: "--memory-reservation: minimum memory limit can not be less"},
		{host: H{Resources: R{MemoryReservation: 1}}, want: "--memory-reservation: minimum memory reservation allowed is 6MB"},
		{host: H{Resources: R{MemorySwappiness: n(101)}}, want: "--memory-swappiness: invalid value: 101"},
		{host: H{Resources: R{NanoCPUs: 99e9}}, want: "--cpus: range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"},
		{host: H{Resources: R{NanoCPUs: 1e6}}, want: "--cpus: range of CPUs"},
		{host: H{Resources: R{NanoCPUs: 1e9, CPUQuota: 1000}}, want: "--cpus: conflicting options"},
		{host: H{Resources: R{NanoCPUs: 1e9, CPUPeriod: 1000}}, want: "--cpus: conflicting options"},
		{host: H{Resources: R{CPUPeriod: 1}}, want: "--cpu-period: CPU cfs period"},
		{host: H{Resources: R{CPUPeriod: 2000000}}, want: "--cpu-period: CPU cfs period"},
		{host: H{Resources: R{CPUQuota: 1}}, want: "--cpu-quota: CPU cfs quota can not be less than 1ms"},
		{host: H{Resources: R{CPUQuota: -2}}, want: "--cpu-quota: invalid value -2"},
		{host: H{Resources: R{CPUShares: 1}}, want: "--cpu-shares: the minimum allowed cpu-shares is 2"},
		{host: H{Resources: R{CPUShares: 9999999}}, want: "--cpu-shares: the maximum allowed cpu-shares is 262144"},
		{host: H{Resources: R{CpusetCpus: "99"}}, want: "--cpuset-cpus: requested CPUs are not available - requested 99, available: 0-1"},
		{host: H{Resources: R{CpusetCpus: "nonsense"}}, want: "--cpuset-cpus: invalid value nonsense for cpuset-cpus: invalid format: nonsense"},
		{host: H{Resources: R{CpusetCpus: "1-0"}}, want: "--cpuset-cpus: invalid value 1-0"},
		{host: H{Resources: R{CpusetCpus: "0-2000000000"}}, want: "--cpuset-cpus: invalid value 0-2000000000 for cpuset-cpus: value out of range"},
		{host: H{Resources: R{CpusetMems: "9"}}, want: "--cpuset-mems: requested memory nodes are not available - requested 9, available: 0"},
		{host: H{Resources: R{BlkioWeight: 5}}, want: "--blkio-weight: range of blkio weight is from 10 to 1000"},
		{host: H{Resources: R{PidsLimit: n(-2)}}, want: "--pids-limit: invalid value -2"},
		{host: H{OomScoreAdj: 1001}, want: "--oom-score-adj: invalid value 1001, range for oom score adj is [-1000, 1000]"},
		{config: engine.Config{Hostname: "x"}, host: H{NetworkMode: "container:y"}, want: "--hostname: conflicting options: hostname and the network mode"},
		{config: engine.Config{Hostname: "x"}, host: H{UTSMode: "host"}, want: "--hostname: conflicting options: hostname and the UTS mode"},
		{config: engine.Config{Hostname: "x"}, host: H{NetworkMode: "host"}},
		{config: engine.Config{ExposedPorts: map[string]struct{}{"80/tcp": {}}}, host: H{NetworkMode: "container:y"}, want: "--expose: conflicting options"},
		{config: engine.Config{ExposedPorts: map[string]struct{}{"80/tcp": {}}}, host: H{NetworkMode: "container:y", PortBindings: map[string][]engine.PortBinding{"80/tcp": {}}}, want: "--publish: conflicting options"},
		{host: H{NetworkMode: "container:y", DNS: []string{"9.9.9.9"}}, want: "--dns: conflicting options"},
		{host: H{NetworkMode: "container:y", ExtraHosts: []string{"a:1.2.3.4"}}, want: "--add-host: conflicting options"},
		{host: H{NetworkMode: "host", Sysctls: map[string]string{"net.x": "1"}}, want: "--sysctl: sysctl 'net.x' not allowed in host network namespace"},
		{host: H{IpcMode: "host", Sysctls: map[string]string{"kernel.sem": "1"}}, want: "--sysctl: sysctl 'kernel.sem' not allowed in host IPC namespace"},
		{host: H{NetworkMode: "none", IpcMode: "host", Sysctls: map[string]string{"net.x": "1"}}},
	} {
		err := Check(&c.config, &c.host, m)
		var typed *Error
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &typed) || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%+v %+v: %v; want %q", c.config, c.host.Resources, err, c.want)
		}
	}
	if err := CheckResources(&engine.Resources{MemorySwap: 50 * MiB}, m, true); err != nil {
		t.Errorf("update --memory-swap alone: %v", err)
	}
	// Where nothing is known of the machine, the kernel decides.
	if err := CheckResources(&engine.Resources{Memory: 1 << 50, NanoCPUs: 1e15, CpusetCpus: "99"}, Machine{"/nosuch", "/nosuch"}, false); err != nil {
		t.Errorf("without /proc and /sys: %v", err)
	}
	if m := ThisMachine(); m.memory() < minMemory || m.cpus() == "" {
		t.Errorf("this machine has %d bytes, CPUs %q", m.memory(), m.cpus())
	}
}

func TestWithoutEffect(t *testing.T) {
	yes, ports := true, map[string][]engine.PortBinding{"80/tcp": {}}
	for _, c := range []struct {
		host engine.HostConfig
		want int
	}{
		{engine.HostConfig{}, 0},
		{engine.HostConfig{NetworkMode: "host"}, 0},
		{engine.HostConfig{NetworkMode: "bridge", PortBindings: ports}, 0},
		{engine.HostConfig{NetworkMode: "host", PortBindings: ports}, 1},
		{engine.HostConfig{Resources: engine.Resources{OomKillDisable: &yes}}, 1},
		{engine.HostConfig{Resources: engine.Resources{OomKillDisable: &yes, Memory: 1 << 30}}, 0},
	} {
		if got := WithoutEffect(&c.host); len(got) != c.want {
			t.Errorf("%+v: %q; want %d", c.host, got, c.want)
		}
	}
}
