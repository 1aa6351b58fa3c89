package opts

import (
	"errors"
	"strings"
	"testing"
	"unicode"
)

// checks are all functions that look at one value, by the flag that they are for.
var checks = map[string]func(string) (string, error){
	"env": Env, "label": Label, "annotation": Annotation, "name": Name, "hostname": Hostname, "add-host": ExtraHost,
	"dns": IP, "dns-search": SearchDomain, "dns-option": Line, "user": User, "group-add": Group, "workdir": Workdir,
	"cgroup-parent": CgroupParent, "pid": PidMode, "ipc": IpcMode, "uts": UTSMode, "cgroupns": CgroupnsMode,
	"userns": UsernsMode, "network": NetworkMode, "pull": Pull, "platform": Platform, "driver": Driver, "attach": Attach,
	"restart": Restart, "stop-signal": Signal, "cap-add": Capability, "sysctl": Sysctl, "tmpfs": Tmpfs,
	"device-cgroup-rule": DeviceRule, "log-driver": LogDriver,
}

// flags makes one of each type that is a flag.
func flags() map[string]interface {
	Set(string) error
	String() string
	Type() string
} {
	return map[string]interface {
		Set(string) error
		String() string
		Type() string
	}{
		"list": NewList(nil), "map": NewMap(nil), "word": NewWord("x", Pull), "bytes": &Bytes{NotZero: true},
		"swap": &Bytes{Infinite: true}, "shm": &Bytes{}, "cpus": new(CPUs), "ulimit": &Ulimits{}, "bps": &Throttles{},
		"iops": &Throttles{Ops: true}, "weight": &Weights{}, "device": &Devices{}, "unsupported": Unsupported{"list", "no"},
	}
}

// A value is refused if want begins with "!", and otherwise becomes want.
func TestChecks(t *testing.T) {
	t.Setenv("HERE", "a b")
	for _, c := range []struct{ flag, value, want string }{
		{"env", "A=1", "A=1"}, {"env", "A=", "A="}, {"env", "HERE", "HERE=a b"}, {"env", "NOT_HERE", "NOT_HERE"},
		{"env", "A=1\n2", "A=1\n2"}, {"env", "A B=1", "A B=1"},
		{"env", "", "!invalid environment variable: "}, {"env", "=x", "!invalid environment variable: =x"},
		{"env", "A\nB=1", `!environment variable 'A\nB' has a character`},
		{"label", "a", "a"}, {"label", "a=b c\nd", "a=b c\nd"}, {"label", "", "!invalid label '': empty name"},
		{"label", "=x", "!invalid label '=x': empty name"}, {"label", "a b=c", "!label 'a b' contains whitespaces"},
		{"label", "a\nb", "!label 'a\\nb' has a character"}, {"annotation", "=1", "!the empty string"}, {"annotation", "a=1", "a=1"},

		{"name", "web-1.a_b", "web-1.a_b"}, {"name", "/web", "web"}, {"name", "", ""}, {"name", strings.Repeat("a", 128), strings.Repeat("a", 128)},
		{"name", "x", "!invalid container name (x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"},
		{"name", "../../x", "!invalid"}, {"name", "a b", "!invalid"}, {"name", "a\nb", `!invalid container name (a\nb)`}, {"name", "-x", "!invalid"},
		{"name", "ünïcode", "!invalid"}, {"name", "//web", "!invalid"}, {"name", strings.Repeat("a", 129), "!invalid"},
		{"hostname", "", ""}, {"hostname", "a.b-c.d_e", "a.b-c.d_e"}, {"hostname", strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{"hostname", "box\n1.2.3.4 evil", `!invalid hostname: 'box\n1.2.3.4 evil'`}, {"hostname", "a b", "!invalid"}, {"hostname", "-a", "!invalid"},
		{"hostname", "a..b", "!invalid"}, {"hostname", strings.Repeat("a.", 33), "!invalid"}, {"hostname", "a\x00", "!invalid"},
		{"add-host", "db:10.0.0.1", "db:10.0.0.1"}, {"add-host", "db=::1", "db:::1"}, {"add-host", "db:[::1]", "db:::1"},
		{"add-host", "db:host-gateway", "db:host-gateway"}, {"add-host", "nonsense", `!bad format for add-host: "nonsense"`},
		{"add-host", "a:nonsense", `!invalid IP address in add-host: "nonsense"`}, {"add-host", "a\n6.6.6.6 evil:1.2.3.4", "!bad format"},
		{"add-host", ":1.2.3.4", "!bad format"}, {"add-host", "a:b=1.2.3.4", "!bad format"}, {"add-host", "a b:1.2.3.4", "!bad format"},
		{"dns", " 9.9.9.9", "9.9.9.9"}, {"dns", "::1", "::1"}, {"dns", "x\ny", `!IP address is not correctly formatted: x\ny`},
		{"dns-search", "x.y.", "x.y"}, {"dns-search", ".", "."}, {"dns-search", "1.2", "!1.2 is not a valid domain"},
		{"dns-search", "x\nnameserver 6.6.6.6", "!"}, {"dns-search", "", "!"}, {"dns-option", "ndots:2", "ndots:2"},
		{"dns-option", "ndots:2\nnameserver", "!"}, {"dns-option", "a b", "!"}, {"dns-option", "", "!"},
		{"user", "", ""}, {"user", "app", "app"}, {"user", "1000:audio", "1000:audio"}, {"user", ":", ":"}, {"user", "app:", "app:"},
		{"user", "-1", "!invalid user: '-1': uids and gids must be in range 0-2147483647"}, {"user", "99999999999999999999", "!"},
		{"user", "2147483648", "!"}, {"user", "a:b:c", "!"}, {"user", "a\nb", "!"}, {"group-add", "audio", "audio"}, {"group-add", "5", "5"},
		{"group-add", "", "!"}, {"group-add", "a:b", "!"}, {"group-add", "4294967296", "!"},
		{"workdir", "/a/../b/", "/b"}, {"workdir", "", ""}, {"workdir", "/a\nb", "!"},
		{"workdir", "rel", "!the working directory 'rel' is invalid, it needs to be an absolute path"},
		{"cgroup-parent", "/mine", "/mine"}, {"cgroup-parent", "", ""}, {"cgroup-parent", "/a/../../x", "!"}, {"cgroup-parent", "..", "!"},
		{"cgroup-parent", "a..b/c", "a..b/c"}, {"cgroup-parent", "a\nb", "!"},

		{"pid", "host", "host"}, {"pid", "container:x", "container:x"}, {"pid", "", ""}, {"pid", "nonsense", "!invalid PID mode: nonsense"},
		{"pid", "container:", "!"}, {"pid", "container:a\nb", "!"}, {"pid", "private", "!"},
		{"ipc", "shareable", "shareable"}, {"ipc", "none", "none"}, {"ipc", "container:x", "container:x"}, {"ipc", "nonsense", "!invalid IPC mode"},
		{"uts", "host", "host"}, {"uts", "container:x", "!invalid UTS mode"}, {"cgroupns", "private", "private"}, {"cgroupns", "x", "!"},
		{"userns", "host", "host"}, {"userns", "1:2:3", "!invalid USER mode"}, {"userns", "nonsense", "!invalid USER mode"},
		{"network", "none", "none"}, {"network", "host", "host"}, {"network", "container:x", "container:x"}, {"network", "default", "default"},
		{"network", "front", "front"}, {"network", "a\nb", "!network a\\nb not found"}, {"network", "../x", "!network ../x not found"}, {"network", "container:", "!"}, {"network", "", "!no name set for network"},
		{"pull", "always", "always"}, {"pull", "", "missing"}, {"pull", "x", `!invalid pull option: 'x': must be one of "always", "missing" or "never"`},
		{"platform", "linux/amd64", "linux/amd64"}, {"platform", "Linux/ARM/v7", "linux/arm/v7"}, {"platform", "a/b/c/d", "!"}, {"platform", "a//b", "!"},
		{"platform", "../x", "!"}, {"platform", "a b", "!"}, {"driver", "aufs-fuse", "aufs-fuse"}, {"driver", "zfs", "!"},
		{"attach", "STDIN", "stdin"}, {"attach", "x", "!valid streams are STDIN, STDOUT and STDERR"},
		{"restart", "no", "no"}, {"restart", "", "no"}, {"restart", "always", "!restart policy 'always' needs a daemon"},
		{"restart", "on-failure:3", "!restart policy 'on-failure'"}, {"restart", "foo", "!invalid restart policy: unknown policy 'foo'"},
		{"restart", ":3", "!invalid restart policy format: no policy"}, {"restart", "no:x", "!invalid restart policy format: maximum"},
		{"restart", "no:3", "!invalid restart policy: maximum retry count can only"}, {"restart", "on-failure:-1", "!invalid restart policy: maximum retry count cannot"},
		{"stop-signal", "TERM", "TERM"}, {"stop-signal", "sigint", "sigint"}, {"stop-signal", "RTMIN+3", "RTMIN+3"}, {"stop-signal", "9", "9"}, {"stop-signal", "", ""},
		{"stop-signal", "99", "!invalid signal: 99"}, {"stop-signal", "0", "!"}, {"stop-signal", "NONSENSE", "!invalid signal: NONSENSE"}, {"stop-signal", "-1", "!"},

		{"cap-add", "net_admin", "CAP_NET_ADMIN"}, {"cap-add", "CAP_CHOWN", "CAP_CHOWN"}, {"cap-add", "all", "ALL"}, {"cap-add", "NOSUCH", `!unknown capability: "CAP_NOSUCH"`}, {"cap-add", "", `!unknown capability: "CAP_"`},
		{"sysctl", "net.ipv4.ip_forward=1", "net.ipv4.ip_forward=1"}, {"sysctl", "kernel.msgmax=1000", "kernel.msgmax=1000"}, {"sysctl", "fs.mqueue.msg_max=20", "fs.mqueue.msg_max=20"},
		{"sysctl", "net.ipv4.tcp_rmem=4096\t1\t2", "net.ipv4.tcp_rmem=4096\t1\t2"},
		{"sysctl", "nonsense", "!sysctl 'nonsense' is not allowed"}, {"sysctl", "kernel.hostname=x", "!sysctl 'kernel.hostname=x' is not allowed"}, {"sysctl", "kernel.shm_next_id=1", "!"},
		{"sysctl", "net/ipv4/ip_forward=1", "!"}, {"sysctl", "net.x/../../kernel/panic=1", "!"}, {"sysctl", "net..x=1", "!"}, {"sysctl", "net.=1", "!"}, {"sysctl", "net.x\ny=1", "!"}, {"sysctl", "net.x=1\n2", "!"}, {"sysctl", "=1", "!"},
		{"tmpfs", "/x", "/x="}, {"tmpfs", "/x/../y/:size=64m,mode=1777,noexec,ro", "/y=size=64m,mode=1777,noexec,ro"}, {"tmpfs", "/x:", "/x="}, {"tmpfs", "/x:size=50%", "/x=size=50%"},
		{"tmpfs", "rel", "!invalid mount path: 'rel' mount path must be absolute"}, {"tmpfs", "", "!"}, {"tmpfs", "/", "!invalid specification: destination can't be '/'"}, {"tmpfs", "/a/..", "!"}, {"tmpfs", "/a=b", "!"},
		{"tmpfs", "/x:nonsense", `!invalid tmpfs option "nonsense"`}, {"tmpfs", "/x:size=nonsense", "!"}, {"tmpfs", "/x:size=1mm", "!"}, {"tmpfs", "/x:mode=999", "!"}, {"tmpfs", "/x:uid=root", "!"}, {"tmpfs", "/x:bind", "!"}, {"tmpfs", "/x\n", "!"}, {"tmpfs", "/x:size=", "!"}, {"tmpfs", "/x:,", "!"},
		{"device-cgroup-rule", "c 1:3 rwm", "c 1:3 rwm"}, {"device-cgroup-rule", "a *:* m", "a *:* m"}, {"device-cgroup-rule", "nonsense", "!invalid device cgroup format 'nonsense'"}, {"device-cgroup-rule", "c 1 r", "!"}, {"device-cgroup-rule", "c 1:x r", "!"}, {"device-cgroup-rule", "x 1:1 r", "!"}, {"device-cgroup-rule", "c 1:1 q", "!"}, {"device-cgroup-rule", "c 1:1", "!"}, {"device-cgroup-rule", " 1:1 r", "!"},
		{"log-driver", "none", "none"}, {"log-driver", "syslog", "!no log driver named 'syslog' is registered"},
	} {
		got, err := checks[c.flag](c.value)
		if want, refused := strings.CutPrefix(c.want, "!"); refused {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("--%s %q: %q, %v; want an error %q", c.flag, c.value, got, err, want)
			}
		} else if err != nil || got != c.want {
			t.Errorf("--%s %q: %q, %v; want %q", c.flag, c.value, got, err, c.want)
		}
	}
}

func TestSet(t *testing.T) {
	for _, c := range []struct{ flag, value, want string }{
		{"bytes", "128m", "128MiB"}, {"bytes", "1.5g", "1.5GiB"}, {"bytes", "4096", "4KiB"}, {"bytes", "6 MB", "6MiB"}, {"bytes", "1kib", "1KiB"},
		{"bytes", "nonsense", "!invalid size: 'nonsense'"}, {"bytes", "4x", "!invalid suffix: 'x'"}, {"bytes", "-5m", "!invalid size: '-5m'"}, {"bytes", "-1", "!invalid size: '-1'"},
		{"bytes", "0", "!invalid size: '0': must be more than 0"}, {"bytes", "0.1", "!"}, {"bytes", "1.2.3", "!invalid size: '1.2.3'"}, {"bytes", "", "!invalid size: ''"}, {"bytes", "1\n", "!invalid size"},
		{"bytes", "99999999999999999999", "!invalid size: '99999999999999999999': more than any machine has"}, {"bytes", "1e400", "!invalid size"}, {"bytes", "9999999999g", "!"}, {"bytes", "NaN", "!"},
		{"swap", "-1", "-1"}, {"swap", "-2", "!invalid size: '-2'"}, {"swap", "0", "0"}, {"shm", "0", "0"}, {"shm", "-1", "!invalid size: '-1'"},
		{"cpus", "1.5", "1.500"}, {"cpus", "1/2", "0.500"}, {"cpus", "1e-1", "0.100"}, {"cpus", "nonsense", "!failed to parse nonsense as a rational number"}, {"cpus", "NaN", "!failed to parse NaN"},
		{"cpus", "1.0000000001", "!value is too precise"}, {"cpus", "0", "!must be more than 0"}, {"cpus", "-1", "!must be more than 0"}, {"cpus", "1e999999999", "!failed"}, {"cpus", "1e30", "!more than any"}, {"cpus", strings.Repeat("1", 33), "!failed"}, {"cpus", "1e+", "!failed"}, {"cpus", "", "!failed"}, {"cpus", "1/0", "!failed"},
		{"ulimit", "nofile=100:200", "nofile=100:200"}, {"ulimit", "core=-1", "core=-1:-1"}, {"ulimit", "nofile=5", "nofile=5:5"}, {"ulimit", "nonsense", "!invalid ulimit argument: nonsense"}, {"ulimit", "nosuch=1", "!invalid ulimit type: nosuch"},
		{"ulimit", "nofile=10:5", "!ulimit soft limit must be less than or equal to hard limit: 10 > 5"}, {"ulimit", "nofile=x", `!invalid ulimit argument: nofile=x: "x" is no number`}, {"ulimit", "nofile=1:2:3", "!too many limit value arguments"}, {"ulimit", "nofile=-2:-2", "!"}, {"ulimit", "nofile=-1:5", "!"}, {"ulimit", "a\nb=1", "!invalid ulimit type: a\\nb"},
		{"bps", "/dev/vda:1mb", "/dev/vda:1048576"}, {"bps", "/dev/vda:0", "/dev/vda:0"}, {"bps", "nonsense", "!bad format: nonsense"}, {"bps", "/tmp:1", "!bad format for device path: /tmp:1"}, {"bps", "/dev/vda:-1", "!invalid rate for device: /dev/vda:-1. The correct format is <device-path>:<number>[<unit>]."}, {"bps", ":1", "!"},
		{"iops", "/dev/vda:10", "/dev/vda:10"}, {"iops", "/dev/vda:1k", "!invalid rate for device: /dev/vda:1k. The correct format is <device-path>:<number>. Number"},
		{"weight", "/dev/vda:500", "/dev/vda:500"}, {"weight", "/dev/vda:5", "!invalid weight for device: /dev/vda:5"}, {"weight", "/dev/vda:0", "/dev/vda:0"}, {"weight", "/dev/vda:70000", "!"}, {"weight", "x", "!"},
		{"device", "/dev/fuse", "/dev/fuse:/dev/fuse:rwm"}, {"device", "/dev/fuse:/dev/x", "/dev/fuse:/dev/x:rwm"}, {"device", "/dev/fuse:r", "/dev/fuse:/dev/fuse:r"}, {"device", "/dev/fuse:/dev/../x:mr", "/dev/fuse:/x:mr"},
		{"device", "nonsense", "!nonsense is not an absolute path"}, {"device", "/dev/fuse:/dev/x:q", "!bad mode specified: q"}, {"device", "/dev/fuse:/dev/x:rr", "!bad mode"}, {"device", "/dev/fuse:rel", "!rel is not an absolute path"}, {"device", "", "!bad format for path: "}, {"device", "/a:/b:r:x", "!bad format"}, {"device", "/a\nb", "!"}, {"device", "a:/b", "!a is not an absolute path"},
		{"map", "a=b=c", "map[a:b=c]"}, {"list", "a", "[a]"}, {"word", "always", "always"}, {"word", "nonsense", "!invalid pull option"}, {"unsupported", "x", "!no"},
	} {
		f := flags()[c.flag]
		err := f.Set(c.value)
		if want, refused := strings.CutPrefix(c.want, "!"); refused {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s %q: %s, %v; want an error %q", c.flag, c.value, f, err, want)
			}
		} else if err != nil || f.String() != c.want {
			t.Errorf("%s %q: %s, %v; want %q", c.flag, c.value, f, err, c.want)
		}
	}
}

// What was given twice: lists grow, of the rest the last counts. Nothing given shows as nothing in the help.
func TestTwice(t *testing.T) {
	for name, f := range flags() {
		if s := f.String(); s != "" && s != "0" && name != "word" || f.Type() == "" {
			t.Errorf("%s without a value shows %q, of type %q", name, s, f.Type())
		}
	}
	for flag, c := range map[string]struct{ first, second, want string }{
		"list": {"b", "a", "[b a]"}, "map": {"a=1", "a=2", "map[a:2]"}, "ulimit": {"nofile=1", "nofile=2", "nofile=2:2"},
		"bps": {"/dev/b:1", "/dev/a:2", "/dev/b:1 /dev/a:2"}, "bytes": {"6m", "7m", "7MiB"},
	} {
		f := flags()[flag]
		if err := errors.Join(f.Set(c.first), f.Set(c.second)); err != nil || f.String() != c.want {
			t.Errorf("%s twice: %s, %v; want %s", flag, f, err, c.want)
		}
	}
}

func TestDetachKeys(t *testing.T) {
	for value, want := range map[string]string{
		"": "", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-@,b,DEL": "\x00b\x7f", `ctrl-\`: "\x1c", "ctrl-_": "\x1f", "ctrl-[": "\x1b",
		"nonsense": "!", "ctrl-": "!", "ctrl-P": "!", "a,,b": "!", "ctrl-ab": "!", ",": "!",
	} {
		keys, err := DetachKeys(value)
		if want == "!" {
			if err == nil {
				t.Errorf("%q: %q; want an error", value, keys)
			}
		} else if err != nil || string(keys) != want {
			t.Errorf("%q: %q, %v; want %q", value, keys, err, want)
		}
	}
}

// oneLine fails for an error that would take more than a line, or would do things to a terminal.
func oneLine(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil && strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("%s: the error has control characters: %q", what, err.Error())
	}
}

func FuzzChecks(f *testing.F) {
	for _, s := range []string{"", "a=b", "/x:size=1m", "container:x", "1:2:3", "a.b-c", "c 1:3 rwm", "net.ipv4.x=1", "on-failure:3", "ctrl-p"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for flag, check := range checks {
			got, err := check(value)
			oneLine(t, "--"+flag, err)
			if err != nil {
				continue
			}
			switch flag { // what may have lines
			case "env", "label", "annotation", "sysctl":
			default:
				oneLine(t, "--"+flag, errors.New(got))
			}
			if again, err := check(got); flag != "tmpfs" && (err != nil || again != got) {
				t.Errorf("--%s %q became %q, which becomes %q, %v", flag, value, got, again, err)
			}
		}
		_, err := DetachKeys(value)
		oneLine(t, "--detach-keys", err)
		_, err = LogConfig("", []string{value})
		oneLine(t, "--log-opt", err)
		if !strings.Contains(value, "seccomp") { // which reads files
			_, err = SecurityOpts([]string{value})
			oneLine(t, "--security-opt", err)
		}
	})
}

func FuzzSet(f *testing.F) {
	for _, s := range []string{"1.5g", "-1", "1e10", "1/3", "nofile=1:2", "/dev/sda:1mb", "/dev/a:/dev/b:rwm"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for name, flag := range flags() {
			oneLine(t, name, flag.Set(value))
			_ = flag.String()
		}
	})
}
