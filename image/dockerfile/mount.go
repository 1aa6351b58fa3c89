package dockerfile

import (
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
)

// Mount is --mount of RUN: something that is there only while the command runs.
type Mount struct {
	Type     string // bind, cache, tmpfs, secret
	From     string // a stage or an image; empty: the context
	Source   string
	Target   string
	ReadOnly bool
	Size     int64   // of a tmpfs
	ID       string  // of a cache or secret
	Sharing  string  // of a cache: shared, private, locked
	Required bool    // of a secret
	Env      *string // show a secret as a variable; an empty one has the secret's own name
	Mode     *uint32 // of a cache's folder or a secret's file
	UID, GID *int
}

// ParseMount reads the options. expand is nil while variables are not known: then only what has none is checked.
func ParseMount(options string, expand func(string) (string, error)) (Mount, error) {
	m := Mount{Type: "bind"}
	fields, err := csv.NewReader(strings.NewReader(options)).Read()
	if err != nil {
		return m, fmt.Errorf("--mount=%s: %w", options, err)
	}
	early := expand == nil && strings.Contains(options, "$")
	access := ""
	for _, field := range fields {
		key, value, has := strings.Cut(field, "=")
		key = strings.ToLower(key)
		if key == "from" && strings.Contains(strings.TrimSuffix(value, "$"), "$") {
			return m, errors.New("'from' doesn't support variable expansion, define alias stage instead")
		}
		if early {
			continue
		}
		if expand != nil {
			if value, err = expand(value); err != nil {
				return m, err
			}
		}
		if err := m.option(key, value, has, &access); err != nil {
			return m, err
		}
	}
	if early {
		return m, nil
	}
	switch access {
	case "":
		m.ReadOnly = m.Type == "bind" || m.Type == "secret"
	default:
		m.ReadOnly = access == "ro"
	}
	return m, m.check()
}

func (m *Mount) option(key, value string, has bool, access *string) (err error) {
	bad := func() error { return fmt.Errorf("invalid value for %s: %s", key, value) }
	switch key {
	case "readonly", "ro", "readwrite", "rw", "required":
		on := true
		if has {
			if on, err = strconv.ParseBool(value); err != nil {
				return bad()
			}
		}
		switch {
		case key == "required" && m.Type == "secret":
			m.Required = on
		case key == "required":
			return fmt.Errorf("unexpected key 'required' for mount type '%s'", m.Type)
		case on == (key == "ro" || key == "readonly"):
			*access = "ro"
		default:
			*access = "rw"
		}
		return nil
	}
	if !has {
		return fmt.Errorf("invalid field '%s' must be a key=value pair", key)
	}
	switch key {
	case "type":
		m.Type = strings.ToLower(value)
		if m.Type == "ssh" {
			return errors.New("mount type \"ssh\" is not supported: use a secret")
		}
		if !slices.Contains([]string{"bind", "cache", "tmpfs", "secret"}, m.Type) {
			return fmt.Errorf("unsupported mount type %q: it is bind, cache, tmpfs or secret", value)
		}
	case "from":
		m.From = value
	case "source", "src":
		m.Source = value
	case "target", "dst", "destination":
		m.Target = value
	case "size":
		if m.Type != "tmpfs" {
			return fmt.Errorf("unexpected key 'size' for mount type '%s'", m.Type)
		}
		if m.Size, err = units.RAMInBytes(value); err != nil {
			return bad()
		}
	case "id":
		m.ID = value
	case "sharing":
		m.Sharing = strings.ToLower(value)
		if !slices.Contains([]string{"shared", "private", "locked"}, m.Sharing) {
			return fmt.Errorf("unsupported sharing value %q: it is shared, private or locked", value)
		}
	case "mode":
		n, err := strconv.ParseUint(value, 8, 12)
		if err != nil {
			return bad()
		}
		mode := uint32(n)
		m.Mode = &mode
	case "uid", "gid":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return bad()
		}
		id := int(n)
		if key == "uid" {
			m.UID = &id
		} else {
			m.GID = &id
		}
	case "env":
		m.Env = &value
	default:
		return fmt.Errorf("unexpected key '%s' in --mount", key)
	}
	return nil
}

func (m *Mount) check() error {
	owned := m.Mode != nil || m.UID != nil || m.GID != nil
	switch {
	case owned && m.Type != "secret" && m.Type != "cache":
		return fmt.Errorf("mode, uid and gid are not allowed for %q type mounts", m.Type)
	case m.Sharing != "" && m.Type != "cache":
		return fmt.Errorf("sharing is not allowed for %q type mounts", m.Type)
	case m.Env != nil && m.Type != "secret":
		return fmt.Errorf("env is not allowed for %q type mounts", m.Type)
	case m.Type == "secret" && m.From != "":
		return errors.New("secret mount should not have a from")
	case m.Type == "secret" && m.Source != "" && m.ID != "":
		return errors.New("both source and id can't be set")
	case m.Type == "secret" && m.Source == "" && m.Target == "" && m.ID == "":
		return errors.New("invalid secret mount: one of id, target required")
	case m.Type != "secret" && m.Target == "":
		return fmt.Errorf("mount of type %s has no target", m.Type)
	}
	return nil
}
