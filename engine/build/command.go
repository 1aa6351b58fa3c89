package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/nslab/nslab/engine"
)

// CommandError is a RUN whose command has failed.
type CommandError struct {
	Command string // as the history shows it
	Status  int
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("process %q did not complete successfully: exit code: %d", e.Command, e.Status)
}

// stepHostname is that of every step: the same input is to give the same output.
const stepHostname = "nslab-build"

// command carries out RUN.
func (r *run) command(ctx context.Context) error {
	argv, script := r.commandLine()
	mounts, err := r.mounts(ctx) // which waits for other stages
	if err != nil {
		return err
	}
	defer mounts.close()
	env := r.environment()
	v := r.s.vertex(r.summary())
	r.b.Progress.Begin(v)
	network := r.network()
	words := slices.Concat(r.st.buildArgs(), argv)
	shown := "RUN " + strings.Join(words, " ")
	c := r.st.config.Config
	key := digestOf(slices.Concat([]string{r.st.key, "RUN", strings.Join(argv, "\x00"), strings.Join(env, "\x00"), script, c.User, c.WorkingDir,
		network, r.security(), fmt.Sprint(r.b.HostConfig.ExtraHosts)}, mounts.key)...)
	hit, err := r.cached(key, shown)
	if hit {
		r.b.Progress.End(v, Cached)
		return nil
	}
	if err != nil {
		r.end(ctx, v, err)
		return err
	}
	err = r.layer(ctx, key, shown, func(room string) (bool, error) {
		if script != "" {
			mounts.script(r.Heredocs[0].Name, script)
		}
		if err := mounts.prepare(ctx); err != nil {
			return false, err
		}
		step := engine.Step{
			Config: engine.Config{
				Hostname: stepHostname, Cmd: argv, Env: append(r.proxyEnv(env), mounts.env...), User: c.User, WorkingDir: path.Join("/", c.WorkingDir),
			},
			HostConfig: r.b.HostConfig, Layers: r.st.union(room), Unions: mounts.unions, Mounts: mounts.list,
			Places: mounts.places, Files: mounts.files,
		}
		step.HostConfig.NetworkMode = network
		step.HostConfig.Privileged = r.security() == "insecure"
		if err := r.step(ctx, v, step, strings.Join(argv, " ")); err != nil {
			return false, err
		}
		return true, dropRuntimeFiles(room)
	})
	r.end(ctx, v, err)
	return err
}

// commandLine is what is executed. A heredoc is the shell's input or, if it begins with "#!", a program of its own.
func (r *run) commandLine() (argv []string, script string) {
	if len(r.Heredocs) == 0 {
		return r.argv(), ""
	}
	line := r.Args[0]
	first := r.Heredocs[0]
	if _, alone := r.HeredocIn(line); alone {
		line = first.Content
		if strings.HasPrefix(first.Content, "#!") {
			line, script = path.Join(scriptDir, first.Name), first.Content
		}
	} else {
		for _, h := range r.Heredocs {
			line += "\n" + h.Raw + h.Name
		}
	}
	return append(slices.Clone(r.st.shell()), line), script
}

const scriptDir = "/dev/pipes"

// summary is how people see the instruction.
func (r *run) summary() string {
	text := r.Original
	if _, alone := r.HeredocIn(r.first()); alone {
		line, _, more := strings.Cut(r.Heredocs[0].Content, "\n")
		if more && strings.Count(r.Heredocs[0].Content, "\n") > 1 {
			line += " …"
		}
		text += " (" + line + ")"
	}
	return text
}

func (r *run) first() string {
	if len(r.Args) == 0 {
		return ""
	}
	return r.Args[0]
}

// environment is what the command finds: arguments, the image's variables, and a search path.
func (r *run) environment() []string {
	env := r.st.variables()
	if !hasEnv(env, "PATH") {
		env = append(env, defaultPath)
	}
	return env
}

// proxyEnv adds the arguments that lead to a proxy, which are in no layer's key and in no history.
func (r *run) proxyEnv(env []string) []string {
	env = slices.Clone(env)
	for _, name := range proxies {
		if value, ok := r.b.Args[name]; ok && !hasEnv(env, name) {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (r *run) network() string {
	if n, ok := r.Flag("network"); ok && n != "default" {
		return n
	}
	if r.b.Network == "" {
		return "default"
	}
	return r.b.Network
}

func (r *run) security() string {
	s, _ := r.Flag("security")
	return s
}

// step runs the container, and passes on what it says.
func (r *run) step(ctx context.Context, v *Vertex, step engine.Step, shown string) error {
	out, inner, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	step.Stdout, step.Stderr = inner, inner
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 32<<10)
		for {
			n, err := out.Read(buf)
			if n > 0 {
				r.b.Progress.Output(v, buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	status, err := r.b.engine.RunStep(ctx, step)
	inner.Close() // the last one, since nobody of the container is left: so this is the end
	<-read
	out.Close()
	var start *engine.StartError
	if errors.As(err, &start) {
		r.b.Progress.Output(v, []byte(start.Err.Error()+"\n"))
		status, err = start.Code, nil
	}
	if err == nil && status != 0 {
		return &CommandError{shown, status}
	}
	return err
}
