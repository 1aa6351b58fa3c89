package volumes

import (
	"encoding/csv"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/go-units"
)

// propagations are the words for what other mount namespaces hear.
var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

var volumeName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`) })

// CheckName says what is wrong with a volume's name.
func CheckName(name string) error {
	if !volumeName().MatchString(name) {
		return fmt.Errorf("07-volumes: %q: %w", name, ErrName)
	}
	return nil
}

func invalid(spec, format string, args ...any) error {
	return &SpecError{Spec: spec, Why: fmt.Sprintf(format, args...)}
}

// ParseVolume reads the argument of -v, as "docker run" does: /inside for a volume without a name, name:/inside,
// /host:/inside or ./host:/inside, each with :options behind, "ro,rslave". Whether the source exists is not its business.
func ParseVolume(spec string) (Mount, error) {
	parts := strings.Split(spec, ":")
	m := Mount{Type: TypeVolume}
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2, 3:
		m.Source, m.Target = parts[0], parts[1]
		if m.Source == "" {
			return m, invalid(spec, "nothing is named before the first colon")
		}
	default:
		return m, invalid(spec, "it has more than three parts")
	}
	if err := checkTarget(spec, &m); err != nil {
		return m, err
	}
	if err := m.classify(spec); err != nil {
		return m, err
	}
	if len(parts) == 3 {
		return m, m.options(spec, parts[2])
	}
	return m, nil
}

func checkTarget(spec string, m *Mount) error {
	if !absolute(m.Target) {
		return invalid(spec, "the path inside, %q, is not absolute", m.Target)
	}
	if m.Target = path.Clean(m.Target); m.Target == "/" {
		return invalid(spec, "the path inside cannot be /")
	}
	return nil
}

// classify tells a path of the host from a volume's name: a path begins with a slash or a dot.
func (m *Mount) classify(spec string) error {
	switch {
	case m.Source == "":
		return nil
	case absolute(m.Source) || strings.HasPrefix(m.Source, "."):
		file, err := filepath.Abs(m.Source)
		if err != nil {
			return invalid(spec, "%v", err)
		}
		m.Type, m.Source, m.Make = TypeBind, file, true
		return nil
	case !volumeName().MatchString(m.Source):
		return invalid(spec, "%q is neither an absolute path nor a name (%v)", m.Source, ErrName)
	}
	return nil
}

// options reads the words behind the second colon.
func (m *Mount) options(spec, list string) error {
	seen := map[string]bool{}
	once := func(kind, word string) error {
		if seen[kind] {
			return invalid(spec, "%q contradicts or repeats an option before it", word)
		}
		seen[kind] = true
		return nil
	}
	for word := range strings.SplitSeq(list, ",") {
		kind := word
		switch {
		case word == "ro" || word == "rw":
			kind, m.ReadOnly = "mode", word == "ro"
		case slices.Contains(propagations, word):
			if m.Type != TypeBind {
				return invalid(spec, "%q is for paths of the host, not for volumes", word)
			}
			kind, m.Propagation = "propagation", word
		case word == "nocopy":
			if m.Type != TypeVolume {
				return invalid(spec, "nocopy is for volumes, not for paths of the host")
			}
			m.NoCopy = true
		case word == "z" || word == "Z": // SELinux labels: where there is no SELinux, Docker ignores them too
			kind = "label"
		case word == "consistent" || word == "cached" || word == "delegated": // for other systems than Linux
			kind = "consistency"
		default:
			return invalid(spec, "no option is called %q", word)
		}
		if err := once(kind, word); err != nil {
			return err
		}
	}
	return nil
}

// ParseMount reads the argument of --mount, as "docker run" does: type=bind,source=/host,target=/inside,readonly.
func ParseMount(spec string) (Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(spec)).Read()
	if err != nil {
		return Mount{}, invalid(spec, "%v", err)
	}
	m := Mount{Type: TypeVolume}
	given := map[string]bool{}
	for _, field := range fields {
		key, value, has := strings.Cut(field, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if full, short := aliases()[key]; short {
			key = full
		}
		set, known := mountKeys()[key]
		switch {
		case !known:
			return m, invalid(spec, "no key is called %q", key)
		case !has && !slices.Contains(flagKeys, key):
			return m, invalid(spec, "%s needs a value: %s=…", key, key)
		case given[key] && key != "volume-label":
			return m, invalid(spec, "%s is given twice", key)
		}
		given[key] = true
		if !has {
			value = "true"
		}
		if err := set(&m, value); err != nil {
			return m, invalid(spec, "%s=%s: %v", key, value, err)
		}
	}
	return m, m.complete(spec, given)
}

func aliases() map[string]string {
	return map[string]string{"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
}

// flagKeys may stand without a value.
var flagKeys = []string{"readonly", "volume-nocopy", "bind-nonrecursive", "bind-create-src"}

// mountKeys are the keys of --mount.
var mountKeys = sync.OnceValue(func() map[string]func(m *Mount, value string) error {
	return map[string]func(m *Mount, value string) error{
		"type": func(m *Mount, v string) error {
			if m.Type = strings.ToLower(v); !slices.Contains([]string{TypeBind, TypeVolume, TypeTmpfs}, m.Type) {
				return fmt.Errorf("the types are bind, volume and tmpfs")
			}
			return nil
		},
		"source":            func(m *Mount, v string) error { m.Source = v; return nil },
		"target":            func(m *Mount, v string) error { m.Target = v; return nil },
		"readonly":          boolean(func(m *Mount, b bool) { m.ReadOnly = b }),
		"volume-nocopy":     boolean(func(m *Mount, b bool) { m.NoCopy = b }),
		"bind-nonrecursive": boolean(func(m *Mount, b bool) { m.NonRecursive = b }),
		"bind-create-src":   boolean(func(m *Mount, b bool) { m.Make = b }),
		"bind-recursive": func(m *Mount, v string) error {
			switch v {
			case "enabled", "readonly":
			case "writable":
				m.TopOnly = true
			case "disabled":
				m.NonRecursive = true
			default:
				return fmt.Errorf("it is one of enabled, disabled, writable and readonly")
			}
			return nil
		},
		"bind-propagation": func(m *Mount, v string) error {
			if m.Propagation = v; !slices.Contains(propagations, v) {
				return fmt.Errorf("it is one of %s", strings.Join(propagations, ", "))
			}
			return nil
		},
		"volume-driver": func(m *Mount, v string) error {
			if m.Driver = v; v != "local" {
				return fmt.Errorf("the only driver is local")
			}
			return nil
		},
		"volume-label": func(m *Mount, v string) error {
			if m.Labels == nil {
				m.Labels = map[string]string{}
			}
			key, value, _ := strings.Cut(v, "=")
			m.Labels[key] = value
			return nil
		},
		"tmpfs-size": func(m *Mount, v string) (err error) {
			if m.Size, err = units.RAMInBytes(v); err == nil && m.Size <= 0 {
				err = fmt.Errorf("it must be more than 0")
			}
			return err
		},
		"tmpfs-mode": func(m *Mount, v string) error {
			mode, err := strconv.ParseUint(v, 8, 12)
			m.Mode = uint32(mode)
			return err
		},
		"consistency": func(*Mount, string) error { return nil },
	}
})

func boolean(set func(*Mount, bool)) func(*Mount, string) error {
	return func(m *Mount, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("it is true or false")
		}
		set(m, b)
		return nil
	}
}

// complete checks what only the whole tells.
func (m *Mount) complete(spec string, given map[string]bool) error {
	if !given["target"] {
		return invalid(spec, "target=… is missing")
	}
	if err := checkTarget(spec, m); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if kind, _, ok := strings.Cut(key, "-"); ok && kind != m.Type {
			return invalid(spec, "%s is for type=%s, not for %s", key, kind, m.Type)
		}
	}
	switch {
	case m.Type == TypeBind && m.Source == "":
		return invalid(spec, "a bind needs source=…")
	case m.Type == TypeBind && !absolute(m.Source):
		return invalid(spec, "source %q: a path must be absolute", m.Source)
	case m.Type == TypeBind:
		m.Source = filepath.Clean(m.Source)
	case m.Type == TypeTmpfs && m.Source != "":
		return invalid(spec, "a tmpfs has no source")
	case m.Type == TypeVolume && m.Source != "" && !volumeName().MatchString(m.Source):
		return invalid(spec, "source %q: %v", m.Source, ErrName)
	}
	return nil
}

func (m Mount) tmpfsOptions() []string {
	mode := m.Mode
	if mode == 0 {
		mode = 0o1777
	}
	options := []string{"nosuid", "nodev", "noexec", fmt.Sprintf("mode=%o", mode)}
	if m.Size > 0 {
		options = append(options, fmt.Sprintf("size=%d", m.Size))
	}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	return options
}

// Check finds two mounts on one place.
func Check(list []Mount) error {
	seen := map[string]bool{}
	for _, m := range list {
		if seen[m.Target] {
			return &SpecError{Why: "two mounts on " + m.Target}
		}
		seen[m.Target] = true
	}
	return nil
}
