package opts

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
)

// Capability checks --cap-add and --cap-drop: a name with or without CAP_, or ALL, in capitals or not.
func Capability(value string) (string, error) {
	name := strings.ToUpper(strings.TrimSpace(value))
	if name == "ALL" {
		return name, nil
	}
	name = "CAP_" + strings.TrimPrefix(name, "CAP_")
	known := slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool {
		return name == "CAP_"+strings.ToUpper(c.String())
	})
	if !known {
		return "", fmt.Errorf("unknown capability: %q", name)
	}
	return name, nil
}

// sysctls are those that are of the IPC namespace; those of the network namespace, and of the message queues, have
// prefixes of their own. All others are the machine's.
var sysctls = [...]string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// Sysctl checks --sysctl: NAME=VALUE, of a name that belongs to a namespace of the container. The name becomes a path
// below /proc/sys, so what a path could do with it is refused.
func Sysctl(value string) (string, error) {
	name, setting, ok := strings.Cut(value, "=")
	allowed := slices.Contains(sysctls[:], name) || strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "fs.mqueue.")
	if !ok || !allowed {
		return "", fmt.Errorf("sysctl %s is not allowed", quoted(value))
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return r >= 128 || !letterOrDigit(byte(r)) && r != '_' && r != '-' && r != '@' && r != ':' // names of interfaces
		}) {
			return "", fmt.Errorf("sysctl %s is not allowed", quoted(value))
		}
	}
	return value, plain("value of sysctl", strings.ReplaceAll(setting, "\t", " "))
}

// Security is what --security-opt comes to.
type Security struct {
	Opts       []string // "no-new-privileges", "key=value"
	Profile    []byte   // of seccomp=FILE
	Unconfined bool     // systempaths=unconfined: nothing below /proc and /sys is hidden
}

// SecurityOpts reads --security-opt.
func SecurityOpts(values []string) (s Security, err error) {
	for _, value := range values {
		if err := plain("option", value); err != nil {
			return s, &Error{Flag: "--security-opt", Err: err}
		}
		key, setting, ok := strings.Cut(value, "=")
		if !ok {
			key, setting, ok = strings.Cut(value, ":") // an older form
		}
		if key == "no-new-privileges" && !ok {
			s.add(key, key)
			continue
		}
		if setting == "" {
			return s, refuse("--security-opt", "", "invalid option: %q", value)
		}
		if err := s.set(key, setting); err != nil {
			return s, err
		}
	}
	return s, nil
}

// set does what one option says.
func (s *Security) set(key, setting string) error {
	const flag = "--security-opt"
	option := key + "=" + setting
	switch key {
	case "no-new-privileges":
		on, err := strconv.ParseBool(setting)
		if err != nil {
			return refuse(flag, "", "invalid option: %q: it is true or false", option)
		}
		option = key + "=" + strconv.FormatBool(on)
	case "seccomp":
		s.Profile = nil
		if setting != "unconfined" && setting != "builtin" {
			profile, err := readFile(setting)
			if err != nil {
				return refuse(flag, "", "seccomp profile: %w", err)
			}
			if !json.Valid([]byte(profile)) {
				return refuse(flag, "", "seccomp profile %s is no JSON", setting)
			}
			s.Profile = []byte(profile)
		}
	case "systempaths":
		if setting != "unconfined" {
			return refuse(flag, "", "invalid option: %q", option)
		}
		s.Unconfined = true
		return nil
	case "apparmor":
		if setting != "unconfined" {
			return refuse(flag, "leave it out, or say apparmor=unconfined", "%s: nslab sets no AppArmor profiles", option)
		}
	case "label":
		if setting != "disable" {
			return refuse(flag, "leave it out, or say label=disable", "%s: nslab sets no SELinux labels", option)
		}
	default:
		return refuse(flag, "", "invalid option: %q", option)
	}
	s.add(key, option)
	return nil
}

// add remembers an option. The last of one key counts, so it takes the place of those before.
func (s *Security) add(key, option string) {
	s.Opts = slices.DeleteFunc(s.Opts, func(o string) bool { return o == key || strings.HasPrefix(o, key+"=") })
	s.Opts = append(s.Opts, option)
}
