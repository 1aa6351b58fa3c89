package image

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestChanges: what each line makes of a config, beginning with one that has a little of everything.
func TestChanges(t *testing.T) {
	for lines, want := range map[string]string{
		`CMD echo $A`:                          `{"Cmd":["/bin/sh","-c","echo $A"]}`,
		`cmd ["a", "b c"]`:                     `{"Cmd":["a","b c"]}`,
		`CMD`:                                  `{"Cmd":[]}`,
		`CMD [a, b]`:                           `{"Cmd":["/bin/sh","-c","[a, b]"]}`,
		`ENTRYPOINT ["x"]`:                     `{"Cmd":null,"Entrypoint":["x"]}`,
		"CMD a\nENTRYPOINT [\"x\"]":            `{"Cmd":["/bin/sh","-c","a"],"Entrypoint":["x"]}`,
		`ENV B=c`:                              `{"Env":["A=a","P=/bin","B=c"]}`,
		`ENV A=x P=$P:/sbin`:                   `{"Env":["A=x","P=/bin:/sbin"]}`,
		`ENV A=x B=$A`:                         `{"Env":["A=x","P=/bin","B=a"]}`,
		`ENV A b c   d`:                        `{"Env":["A=b c   d","P=/bin"]}`,
		`ENV A="b c" B='$A' C=\$A D=a\ b`:      `{"Env":["A=b c","P=/bin","B=$A","C=$A","D=a b"]}`,
		`ENV B=${A} C=${N:-none} D=${A:+set}`:  `{"Env":["A=a","P=/bin","B=a","C=none","D=set"]}`,
		`ENV B=${N:+set} C=${A:-x} D=${N:-$P}`: `{"Env":["A=a","P=/bin","B=","C=a","D=/bin"]}`,
		"ENV B=1 \\\n  C=2":                    `{"Env":["A=a","P=/bin","B=1","C=2"]}`,
		"# nothing\n\nUSER 1:2":                `{"User":"1:2"}`,
		`EXPOSE 80 53/udp 8000-8002/TCP`:       `{"ExposedPorts":{"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{},"8002/tcp":{}}}`,
		`LABEL a=b "c d"="e f"`:                `{"Labels":{"a":"b","c d":"e f","old":"label"}}`,
		`VOLUME /a /b`:                         `{"Volumes":{"/a":{},"/b":{}}}`,
		`VOLUME ["/a b"]`:                      `{"Volumes":{"/a b":{}}}`,
		`WORKDIR sub`:                          `{"WorkingDir":"/w/sub"}`,
		`WORKDIR /$A/..//x`:                    `{"WorkingDir":"/x"}`,
		`STOPSIGNAL SIGUSR1`:                   `{"StopSignal":"SIGUSR1"}`,
		`STOPSIGNAL 9`:                         `{"StopSignal":"9"}`,
		`ONBUILD RUN x`:                        `{"OnBuild":["RUN x"]}`,
		`HEALTHCHECK --interval=5s --retries=2 CMD true`: `{"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Retries":2}}`,
		`HEALTHCHECK NONE`: `{"Healthcheck":{"Test":["NONE"]}}`,
	} {
		c, e := startConfig()
		if err := applyChanges(&c, &e, []string{lines}); err != nil {
			t.Errorf("%s: %v", lines, err)
			continue
		}
		wantConfig, wantExtra := startConfig()
		wantConfig.Env, wantConfig.Labels = nil, nil
		whole := configFileConfig{ImageConfig: wantConfig}
		if !strings.Contains(want, `"Env"`) {
			whole.Env = []string{"A=a", "P=/bin"}
		}
		if !strings.Contains(want, `"Labels"`) {
			whole.Labels = map[string]string{"old": "label"}
		}
		if err := json.Unmarshal([]byte(want), &whole); err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		got, _ := json.Marshal(configFileConfig{c, e.Healthcheck, e.OnBuild, e.Shell})
		wanted, _ := json.Marshal(whole)
		if string(got) != string(wanted) {
			t.Errorf("%s:\n%s; want\n%s", lines, got, wanted)
		}
		_ = wantExtra
	}
	// The config that was changed may be another image's.
	base, e := startConfig()
	changed := base
	if err := applyChanges(&changed, &e, []string{"ENV A=z", "LABEL old=new"}); err != nil || base.Env[0] != "A=a" || base.Labels["old"] != "label" {
		t.Errorf("the base has %q %q, %v; want it unchanged", base.Env, base.Labels, err)
	}
}

func startConfig() (ocispec.ImageConfig, Extra) {
	return ocispec.ImageConfig{
		Env: []string{"A=a", "P=/bin"}, Cmd: []string{"old"}, WorkingDir: "/w", Labels: map[string]string{"old": "label"},
	}, Extra{}
}

func TestBadChanges(t *testing.T) {
	for line, want := range map[string]string{
		"FROM x": "FROM is not a valid change command", "RUN x": "RUN is not a valid change command", "FOO x": "unknown instruction: FOO",
		"ENV": "ENV requires at least one argument", "ENV A": "A must be followed by a value", "ENV A=b C": `can't find = in "C"`,
		`ENV A="b`: "looking for a matching \"", "ENV =b": "a name must not be empty", "ENV A=${B": "bad substitution", "ENV A=${}": "bad substitution",
		"ENV A=${B:?x}": "unsupported modifier", "EXPOSE 0": `invalid port "0"`, "EXPOSE 70000": "invalid port", "EXPOSE 80/icmp": "invalid port",
		"EXPOSE 9-8": "invalid port", "EXPOSE x": "invalid port", "USER a b": "exactly one", "STOPSIGNAL SIGNO": "invalid signal: SIGNO",
		"STOPSIGNAL 99": "invalid signal", "STOPSIGNAL 0": "invalid signal", "ONBUILD ONBUILD RUN x": "chaining", "ONBUILD FROM x": "trigger",
		"HEALTHCHECK x": "NONE or CMD", "HEALTHCHECK CMD": "missing command", "HEALTHCHECK --retries=0 CMD x": "at least 1",
		"HEALTHCHECK --no=1s CMD x": "knows no option", `VOLUME [""]`: "empty string", `WORKDIR "a`: "matching",
	} {
		c, e := startConfig()
		err := applyChanges(&c, &e, []string{line})
		if !errors.Is(err, ErrInstruction) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", line, err, want)
		}
	}
}

// FuzzChanges: no line makes it panic.
func FuzzChanges(f *testing.F) {
	for _, line := range []string{"ENV A=${B:-${C:+d}} 'x y'=\"z\\\"\"", "EXPOSE 1-2/udp", "HEALTHCHECK --interval=1s CMD [\"a\"]", "LABEL \\", "ENV $=$", "ONBUILD \t"} {
		f.Add(line)
	}
	f.Fuzz(func(_ *testing.T, line string) {
		c, e := startConfig()
		applyChanges(&c, &e, []string{line})
	})
}

func TestPlatform(t *testing.T) {
	for text, want := range map[string]string{
		"linux/arm64": "linux/arm64/", "arm64": "linux/arm64/", "linux/arm/v7": "linux/arm/v7", "Linux/x86_64": "linux/amd64/", "aarch64": "linux/arm64/",
	} {
		if p, err := ParsePlatform(text); err != nil || p.OS+"/"+p.Architecture+"/"+p.Variant != want {
			t.Errorf("platform %s = %+v, %v; want %s", text, p, err, want)
		}
	}
	for _, text := range []string{"windows/amd64", "linux/", "/", "linux/a b", "a/b/c/d", "linux/../x"} {
		if p, err := ParsePlatform(text); err == nil {
			t.Errorf("platform %q = %+v; want an error", text, p)
		}
	}
}
