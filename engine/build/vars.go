package build

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/nslab/nslab/image/dockerfile"
)

// Some build arguments are there without an ARG: those that lead to a proxy, which are nobody's business in an image or its
// history, and what the platforms are called.

var proxies = []string{
	"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy",
}

// predefined says whether nobody need ask for an argument.
func predefined(name string) bool {
	return slices.Contains(proxies, name) || name == "SOURCE_DATE_EPOCH" || strings.HasPrefix(name, "BUILDKIT_")
}

// platformArgs are TARGETPLATFORM and its like.
func platformArgs(target, stage string) []string {
	build := "linux/" + runtime.GOARCH
	if target == "" {
		target = build
	}
	var list []string
	for prefix, platform := range map[string]string{"TARGET": target, "BUILD": build} {
		parts := append(strings.SplitN(platform, "/", 3), "", "")
		list = append(list, prefix+"PLATFORM="+platform, prefix+"OS="+parts[0], prefix+"ARCH="+parts[1], prefix+"VARIANT="+parts[2])
	}
	slices.Sort(list)
	if stage == "" {
		stage = "default"
	}
	return append(list, "TARGETSTAGE="+stage)
}

// setGlobals carries out the ARGs before the first FROM.
func (b *builder) setGlobals() error {
	b.globals = platformArgs(b.Platform, b.Target)
	for _, i := range b.file.Args {
		for _, p := range i.Pairs {
			x := b.file.NewExpander(b.globals)
			value, err := x.Word(p.Value)
			if err != nil {
				return b.file.Errorf(i, "%w", err)
			}
			set := p.Set
			if v, ok := b.argument(p.Name); ok {
				value, set = v, true
			}
			if set {
				b.globals = setEnv(b.globals, p.Name, value)
			}
		}
	}
	return nil
}

// argument is the value of a build argument on the command line.
func (b *builder) argument(name string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.Args[name]
	b.used[name] = true
	return v, ok
}

// expandGlobal expands what stands in a FROM.
func (b *builder) expandGlobal(i *dockerfile.Instruction, word string) (string, error) {
	x := b.file.NewExpander(b.globals)
	out, err := x.Word(word)
	if err != nil {
		return "", b.file.Errorf(i, "%w", err)
	}
	return out, nil
}

// arg carries out ARG.
func (r *run) arg() error {
	var words []string
	for _, p := range r.Pairs {
		name, err := r.x.Word(p.Name)
		if err != nil {
			return err
		}
		value, set := "", p.Set
		if given, ok := r.b.argument(name); ok {
			value, set = given, true
		} else if p.Set {
			if value, err = r.x.Word(p.Value); err != nil {
				return err
			}
		} else if n := slices.IndexFunc(r.b.globals, func(g string) bool { return strings.HasPrefix(g, name+"=") }); n >= 0 {
			_, value, _ = strings.Cut(r.b.globals[n], "=")
			set = true
		}
		r.st.setArg(name, value, set)
		word := name
		if set {
			word += "=" + value
		}
		words = append(words, word)
	}
	r.st.note("ARG "+strings.Join(words, " "), nil)
	return nil
}

// buildArgs is how the history shows the arguments that a RUN was done with.
func (s *state) buildArgs() []string {
	env := s.variables()
	var list []string
	for _, a := range s.args {
		value := a.value
		if i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, a.name+"=") }); i >= 0 {
			_, value, _ = strings.Cut(env[i], "=")
		}
		list = append(list, a.name+"="+value)
	}
	if len(list) == 0 {
		return nil
	}
	return append([]string{fmt.Sprintf("|%d", len(list))}, list...)
}
