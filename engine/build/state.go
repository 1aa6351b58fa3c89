package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/image"
)

// state is an image as far as a stage has come.
type state struct {
	config ocispec.Image
	extra  image.Extra
	layers []*image.Layer // the lowest first
	dirs   []string       // to mount, the topmost first
	old    int            // how many of the layers are the base image's
	steps  int            // and of the history

	args   []arg // in effect, in their order
	cmdSet bool  // CMD came before ENTRYPOINT, which otherwise makes the base's meaningless

	key  string // of all so far, for the cache
	done bool   // something had to be done: what follows is not looked for in the cache
}

// arg is an ARG. One that has no value is not a variable.
type arg struct {
	name, value string
	set         bool
}

// clone is for a stage that is built on another.
func (s *state) clone() *state {
	c := *s
	c.config.Config = cloneConfig(s.config.Config)
	c.config.History = slices.Clone(s.config.History)
	c.extra.OnBuild = slices.Clone(s.extra.OnBuild)
	c.layers, c.dirs, c.args = slices.Clone(s.layers), slices.Clone(s.dirs), slices.Clone(s.args)
	return &c
}

// cloneConfig lets nothing that is changed be another image's.
func cloneConfig(c ocispec.ImageConfig) ocispec.ImageConfig {
	c.Env = slices.Clone(c.Env)
	c.ExposedPorts, c.Volumes, c.Labels = maps.Clone(c.ExposedPorts), maps.Clone(c.Volumes), maps.Clone(c.Labels)
	return c
}

// top is the topmost layer, nil where there is none.
func (s *state) top() *image.Layer {
	if len(s.layers) == 0 {
		return nil
	}
	return s.layers[len(s.layers)-1]
}

func (s *state) push(l *image.Layer) {
	s.layers = append(s.layers, l)
	s.dirs = append([]string{l.Dir()}, s.dirs...)
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// addPath gives an image a search path that has none, so that "ENV PATH=/opt/bin:$PATH" adds to one.
func (s *state) addPath() {
	if !hasEnv(s.config.Config.Env, "PATH") {
		s.config.Config.Env = append([]string{defaultPath}, s.config.Config.Env...)
	}
}

// variables are what is expanded, and what RUN finds: the arguments and, over them, the environment of the image.
func (s *state) variables() []string {
	var env []string
	for _, a := range s.args {
		if a.set {
			env = setEnv(env, a.name, a.value)
		}
	}
	for _, e := range s.config.Config.Env {
		name, value, _ := strings.Cut(e, "=")
		env = setEnv(env, name, value)
	}
	return env
}

func setEnv(env []string, name, value string) []string {
	line := name + "=" + value
	if i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") }); i >= 0 {
		env[i] = line
		return env
	}
	return append(env, line)
}

func hasEnv(env []string, name string) bool {
	return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
}

func (s *state) setArg(name, value string, set bool) {
	if i := slices.IndexFunc(s.args, func(a arg) bool { return a.name == name }); i >= 0 {
		s.args[i] = arg{name, value, set}
		return
	}
	s.args = append(s.args, arg{name, value, set})
}

func (s *state) label(name, value string) {
	if s.config.Config.Labels == nil {
		s.config.Config.Labels = map[string]string{}
	}
	s.config.Config.Labels[name] = value
}

// shell is what runs a command that is not a JSON list.
func (s *state) shell() []string {
	if len(s.extra.Shell) > 0 {
		return s.extra.Shell
	}
	return []string{"/bin/sh", "-c"}
}

// note adds a step to the history. Steps without a layer get their time at the end.
func (s *state) note(by string, l *image.Layer) {
	h := ocispec.History{CreatedBy: by, EmptyLayer: l == nil}
	if l != nil {
		created := l.Created
		h.Created = &created
	}
	s.config.History = append(s.config.History, h)
}

// setTimes gives steps without a layer the time at which the image was first made, so that making it again gives the same one.
func (b *builder) setTimes(s *state) error {
	text, err := json.Marshal([]any{s.config, s.extra, chainOf(s), b.Epoch})
	if err != nil {
		return fmt.Errorf("write the image's settings: %w", err)
	}
	at := b.now
	if b.Epoch == nil {
		at = b.draft.ImageTime(digestOf("image", string(text)), b.now)
	}
	s.config.Created = &at
	for n := range s.config.History {
		h := &s.config.History[n]
		if h.Created == nil && n >= s.steps {
			h.Created = &at
		}
		if b.Epoch == nil && h.Created != nil {
			s.config.Created = h.Created
		}
	}
	return nil
}

func chainOf(s *state) string {
	if t := s.top(); t != nil && t.Wait() == nil {
		return string(t.Chain())
	}
	return ""
}

// digestOf is a digest of several texts, which cannot be mistaken for that of others.
func digestOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
